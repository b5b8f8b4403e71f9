"""How large a request is, by its path: estimated prompt tokens, and independent items. Read for `requests.py`.

What is not recognised here is the worker's to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gateway.body import Kind
from policies.reason import Reason
from policies.request import Shed

BYTES_PER_TOKEN = 4.0
"""English text runs at about four bytes a token ("What are tokens and how to count them?", OpenAI help centre)."""
MESSAGE_TOKENS = 3
"""Role and separators of each chat message (`num_tokens_from_messages`, OpenAI cookbook)."""
MEDIA_TOKENS = 765
"""An image, or other part that is not text: a 1024 x 1024 image at high detail, by OpenAI's vision pricing. Its
base64 length says nothing about its tokens."""
MAX_ITEMS = 16_384
"""Inputs in one embeddings request, documents in one ranking; OpenAI's own limit is 2,048."""

Document = dict[str, Any]
Size = Callable[[Document, int], tuple[float, int]]
"""(document, bytes of the body) -> (estimated prompt tokens, items)"""


class FieldError(Exception):
    """Ends the reading of a body; becomes a `Shed` at the one place that catches it."""

    def __init__(self, param: str, expects: str) -> None:
        self.shed = Shed(Reason.BAD_REQUEST, f"This field takes {expects}.", param)


def _text_tokens(text: str) -> float:
    return (len(text) if text.isascii() else len(text.encode())) / BYTES_PER_TOKEN


def _content_tokens(content: object) -> float:
    """A message's `content`: text, or parts of which the text counts by length."""
    if type(content) is str:
        return _text_tokens(content)
    if type(content) is not list:
        return 0.0
    return sum(_text_tokens(text) if type(text := _text_of(part)) is str else MEDIA_TOKENS for part in content)


def _text_of(part: object) -> object:
    return part.get("text") if type(part) is dict else part


def _conversation_tokens(messages: list[Any]) -> float:
    tokens = 0.0
    for message in messages:
        if type(message) is dict:
            content = message.get("content")
            if type(content) is str and content.isascii():
                tokens += MESSAGE_TOKENS + len(content) / BYTES_PER_TOKEN
            else:
                tokens += MESSAGE_TOKENS + _content_tokens(content)
            if "tool_calls" in message:
                tokens += _json_tokens(message["tool_calls"])
    return tokens


def _json_tokens(value: object) -> float:
    return len(orjson.dumps(value)) / BYTES_PER_TOKEN


def _chat_size(document: Document, length: int) -> tuple[float, int]:
    messages = document.get("messages")
    if type(messages) is not list or not messages:
        raise FieldError("messages", "an array of messages, not empty")
    tools = document.get("tools")
    return _conversation_tokens(messages) + (_json_tokens(tools) if tools else 0.0), 1


def _response_size(document: Document, length: int) -> tuple[float, int]:
    given = document.get("input")
    tokens = _conversation_tokens(given) if type(given) is list else _content_tokens(given)
    tools = document.get("tools")
    return tokens + _content_tokens(document.get("instructions")) + (_json_tokens(tools) if tools else 0.0), 1


def _inputs_size(document: Document, key: str) -> tuple[float, int]:
    """`prompt` and `input`: one text, one list of token numbers, or a list of either."""
    given = document.get(key)
    if type(given) is str:
        return _text_tokens(given), 1
    if type(given) is not list or not given:
        raise FieldError(key, "a string or an array, not empty")
    if type(given[0]) is int:
        return float(len(given)), 1
    if len(given) > MAX_ITEMS:
        raise FieldError(key, f"an array of up to {MAX_ITEMS} inputs")
    tokens = sum(_text_tokens(one) if type(one) is str else len(one) if type(one) is list else 0.0 for one in given)
    return tokens, len(given)


def _completion_size(document: Document, length: int) -> tuple[float, int]:
    return _inputs_size(document, "prompt")


def _embedding_size(document: Document, length: int) -> tuple[float, int]:
    return _inputs_size(document, "input")


def _rerank_size(document: Document, length: int) -> tuple[float, int]:
    documents = document.get("documents")
    if type(documents) is not list or not 0 < len(documents) <= MAX_ITEMS:
        raise FieldError("documents", f"an array of 1 to {MAX_ITEMS} documents")
    return length / BYTES_PER_TOKEN, len(documents)


def _other_size(document: Document, length: int) -> tuple[float, int]:
    return length / BYTES_PER_TOKEN, 1


def _decision_size(document: Document, length: int) -> tuple[float, int]:
    """A text is compared with every option; data, a JSON object or array, are one item of a classifier."""
    given, asked = document.get("input", document.get("state")), document.get("questions")
    if type(given) is not str or given[:1] in ("{", "["):
        return length / BYTES_PER_TOKEN, 1
    questions = list(asked.values()) if type(asked) is dict else asked if type(asked) is list else []
    return length / BYTES_PER_TOKEN, min(1 + sum(map(_options, questions)), MAX_ITEMS)


def _options(question: object) -> int:
    """A statement is one."""
    if type(question) is not dict:
        return 1
    options = question.get("choices") or question.get("levels") or question.get("criteria")
    return len(options) if type(options) is list or type(options) is dict else 1


OTHER = (Kind.OTHER, _other_size)
PATHS: dict[bytes, tuple[Kind, Size]] = {
    b"/v1/chat/completions": (Kind.CHAT, _chat_size),
    b"/v1/completions": (Kind.COMPLETION, _completion_size),
    b"/v1/responses": (Kind.RESPONSE, _response_size),
    b"/v1/embeddings": (Kind.EMBEDDING, _embedding_size),
    b"/v1/rerank": (Kind.RERANK, _rerank_size),
    b"/v1/decisions": (Kind.OTHER, _decision_size),
    b"/v1/systemone": (Kind.OTHER, _decision_size),
}
