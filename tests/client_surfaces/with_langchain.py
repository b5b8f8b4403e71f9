"""What test_langchain.py runs where langchain-openai is installed: prints one JSON object of what it got."""

import asyncio
import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

URL = f"{sys.argv[1]}/v1"
chat = ChatOpenAI(
    model="tinychat",
    base_url=URL,
    api_key="unused",
    max_tokens=24,
    temperature=0,
    default_headers={"x-deadline-ms": "9000"},
)
# The texts are sent as texts: token ids would be of a tokenizer that is not the model's.
embeddings = OpenAIEmbeddings(model="minilm", base_url=URL, api_key="unused", check_embedding_ctx_length=False)
QUESTION = "What is the capital of France?"

answer = chat.invoke(QUESTION)
json.dump(
    {
        "answer": answer.content,
        "tokens": answer.usage_metadata["total_tokens"],
        "streamed": [piece.content for piece in chat.stream(QUESTION)],
        "asynchronous": asyncio.run(chat.ainvoke(QUESTION)).content,
        "batch": [one.content for one in chat.batch([QUESTION, QUESTION])],
        "documents": [len(row) for row in embeddings.embed_documents(["a cat", "a dog"])],
        "query": len(embeddings.embed_query("an animal")),
    },
    sys.stdout,
)
