"""How answers are written on the text surfaces: chat, completions and responses, whole or as server-sent events.

A shape belongs to one request. It turns pieces of text into the objects the official client reads; what is generated,
and when, is openai.py's. Nothing is stored, so a response can be read once: from its reply.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from workers.openai_bodies import ResponseBody, TextBody

DONE = b"data: [DONE]\n\n"


class Shape:
    """How an answer is written on one of the text surfaces."""

    end = DONE
    """What ends a stream."""

    def __init__(self, body: TextBody, lane: str, request_id: str, prompt_tokens: int) -> None:
        raise NotImplementedError

    def whole(self, text: str, finish: str, tokens: int) -> dict[str, Any]:
        """The reply of a request that does not stream."""
        raise NotImplementedError

    def opening(self) -> bytes:
        """What stands before the first text."""
        return b""

    def delta(self, piece: str) -> bytes:
        raise NotImplementedError

    def closing(self, finish: str, tokens: int) -> bytes:
        """What stands after the last text."""
        raise NotImplementedError


class _Choices(Shape):
    """What `chat.completion` and `text_completion` share: one choice, chunks without names."""

    object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, body: TextBody, lane: str, request_id: str, prompt_tokens: int) -> None:
        self._head = {
            "id": f"{self.prefix}-{request_id}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": lane,
        }
        self._prompt_tokens = prompt_tokens
        self._include_usage = body.include_usage

    def whole(self, text: str, finish: str, tokens: int) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": finish, "logprobs": None} | self.message(text)
        return {"object": self.object, **self._head, "choices": [choice], "usage": self._usage(tokens)}

    def delta(self, piece: str) -> bytes:
        return event(self._chunk([{"index": 0, "finish_reason": None, "logprobs": None} | self.part(piece)]))

    def closing(self, finish: str, tokens: int) -> bytes:
        """The chunk with the finish reason and, if asked for, the one with the usage."""
        last = event(self._chunk([{"index": 0, "finish_reason": finish, "logprobs": None} | self.part("")]))
        if not self._include_usage:
            return last
        return last + event(self._chunk([]) | {"usage": self._usage(tokens)})

    def message(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def part(self, piece: str) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage else {}
        return {"object": self.chunk_object, **self._head, "choices": choices, **usage}

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class Chat(_Choices):
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def opening(self) -> bytes:
        first = {"index": 0, "finish_reason": None, "logprobs": None, "delta": {"role": "assistant", "content": ""}}
        return event(self._chunk([first]))

    def message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, piece: str) -> dict[str, Any]:
        return {"delta": {"content": piece} if piece else {}}


class Completion(_Choices):
    """`/v1/completions`."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, piece: str) -> dict[str, Any]:
        return {"text": piece}


class Response(Shape):
    """`/v1/responses`: named, numbered events around one output message with one text."""

    end = b""

    def __init__(self, body: TextBody, lane: str, request_id: str, prompt_tokens: int) -> None:
        assert isinstance(body, ResponseBody)
        self._body = body
        self._prompt_tokens = prompt_tokens
        self._id, self._item = f"resp_{request_id}", f"msg_{request_id}"
        self._created = int(time.time())
        self._text: list[str] = []
        self._sent = 0

    def whole(self, text: str, finish: str, tokens: int) -> dict[str, Any]:
        status = _STATUS[finish]
        return self._response(status, [self._message(status, text)], tokens)

    def opening(self) -> bytes:
        begun = self._response("in_progress", [])
        return b"".join((
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._message("in_progress", None)),
            self._event("response.content_part.added", **self._place(), part=_part("")),
        ))  # fmt: skip

    def delta(self, piece: str) -> bytes:
        self._text.append(piece)
        return self._event("response.output_text.delta", **self._place(), delta=piece, logprobs=[])

    def closing(self, finish: str, tokens: int) -> bytes:
        text, status, place = "".join(self._text), _STATUS[finish], self._place()
        message = self._message(status, text)
        return b"".join((
            self._event("response.output_text.done", **place, text=text, logprobs=[]),
            self._event("response.content_part.done", **place, part=_part(text)),
            self._event("response.output_item.done", output_index=0, item=message),
            self._event(f"response.{status}", response=self._response(status, [message], tokens)),
        ))  # fmt: skip

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _event(self, name: str, **fields: Any) -> bytes:
        number, self._sent = self._sent, self._sent + 1
        return b"event: " + name.encode() + b"\n" + event({"type": name, "sequence_number": number, **fields})

    def _message(self, status: str, text: str | None) -> dict[str, Any]:
        """The output item; without its content while that is still to come."""
        content = [] if text is None else [_part(text)]
        return {"type": "message", "id": self._item, "status": status, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[dict[str, Any]], tokens: int | None = None) -> dict[str, Any]:
        """`usage` stands last: gateways look for it at the end of a reply."""
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if tokens is None else self._usage(tokens),
        }

    def _usage(self, tokens: int) -> dict[str, Any]:
        prompt = self._prompt_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + tokens,
        }


_STATUS = {"stop": "completed", "length": "incomplete"}
"""Why the tokens ended -> the response's status."""


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def event(chunk: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
