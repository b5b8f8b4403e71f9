"""Sentence embeddings: find the answer whose meaning is nearest, on any variant that is within 1 % of the reference.

Model: all-MiniLM-L6-v2 by the sentence-transformers authors, Apache-2.0. The texts are this file's own.
"""

import sys

import numpy as np
from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
ANSWERS = [
    "You can return any item within 30 days for a full refund.",
    "Parcels to Europe take three to five working days.",
    "Reset your password from the link on the sign-in page.",
    "We accept cards, bank transfers and invoices.",
]
QUESTIONS = {"I forgot how to log in": 2, "When will my order get here?": 1, "Can I send this back?": 0}

with OpenAI(base_url=f"{URL}/v1", api_key="unused") as client:
    raw = client.embeddings.with_raw_response.create(
        model="minilm",
        input=[*ANSWERS, *QUESTIONS],
        extra_headers={"x-deadline-ms": "1000", "x-min-quality": "0.99", "x-route-explain": "1"},
    )
rows = np.array([item.embedding for item in raw.parse().data])
answers, questions = rows[: len(ANSWERS)], rows[len(ANSWERS) :]
best = (questions @ answers.T).argmax(axis=1)
for question, place in zip(QUESTIONS, best, strict=True):
    print(f"{question}  ->  {ANSWERS[place]}")
print(f"by {raw.headers['x-route-node']} ({raw.headers['x-route-variant']})")
sys.exit(list(best) != list(QUESTIONS.values()))
