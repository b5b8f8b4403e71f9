"""What an emulated worker is asked and what it writes: documents of OpenAI's shape without meaning."""

from __future__ import annotations

import msgspec

WORD = "word "


class Asked(msgspec.Struct):
    """The fields of a body that cost time here."""

    model: str = ""
    stream: bool = False
    max_tokens: int = 16
    max_completion_tokens: int | None = None
    input: str | list[str] = ""

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens


def event(document: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def chunk(path: str, asked: Asked, last: bool) -> dict[str, object]:
    common = {"id": "emulated", "created": 0, "model": asked.model}
    reason = "stop" if last else None
    if "chat" in path:
        choice: dict[str, object] = {"index": 0, "delta": {"content": WORD}, "finish_reason": reason}
        return common | {"object": "chat.completion.chunk", "choices": [choice]}
    choice = {"index": 0, "text": WORD, "finish_reason": reason, "logprobs": None}
    return common | {"object": "text_completion", "choices": [choice]}


def reply(path: str, asked: Asked, items: int) -> dict[str, object]:
    usage = {"prompt_tokens": 1, "completion_tokens": asked.tokens, "total_tokens": asked.tokens + 1}
    common: dict[str, object] = {"id": "emulated", "created": 0, "model": asked.model, "usage": usage}
    text = WORD * asked.tokens
    if "chat" in path:
        choice: dict[str, object] = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        return common | {"object": "chat.completion", "choices": [choice]}
    if path.endswith("/completions"):
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return common | {"object": "text_completion", "choices": [choice]}
    if path.endswith("/embeddings"):
        vector = [1.0, 0.0]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(items)]
        return common | {"object": "list", "data": data}
    return common
