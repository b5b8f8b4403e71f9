"""OpenAI request bodies: which fields our engines honour, and a clear refusal for those they cannot.

A field that would change the answer is either honoured or refused by name, never silently ignored; fields that only
annotate (`user`, `metadata`, `store`, ...) are. Bounds are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from policies.reason import Reason
from workers.engines.text import MAX_STOPS, ROLES, Sampling, Text
from workers.queue import Refused

CHAT_TOKENS = 256
"""Answer length when the client names none: our chat models are small and rarely stop by themselves."""
COMPLETION_TOKENS = 16
"""OpenAI's own default for /v1/completions."""
MAX_INPUTS = 2048
"""OpenAI's own bound on the inputs of one embedding request."""

TEXT_PARTS = ("input_text", "output_text", "text")
"""Types of the parts of a responses message that are text; the last is the chat surface's name for it."""

Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class TextBody(msgspec.Struct, kw_only=True):
    """What the text surfaces share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    """vLLM's extension: load tests want answers of a known length."""
    n: Any = None
    best_of: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None

    @property
    def prompt_field(self) -> str:
        """Where the prompt stands, for error messages."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def prompt_ids(self, text: Text) -> list[int] | Refused:
        raise NotImplementedError

    def unsupported(self) -> Mapping[str, tuple[object, ...]]:
        """Fields our engines cannot honour, with the values that ask for nothing."""
        return {
            "n": (None, 1),
            "best_of": (None, 1),
            "presence_penalty": (None, 0),
            "frequency_penalty": (None, 0),
            "logit_bias": (None, {}),
            "logprobs": (None, False),
        }

    def wanted_tokens(self) -> int:
        return self.max_tokens or COMPLETION_TOKENS

    def sampling(self, room: int, seed: int) -> Sampling | Refused:
        """The engine's settings: at most `room` tokens, and `seed` where the client named none."""
        for name, harmless in self.unsupported().items():
            if getattr(self, name) not in harmless:
                allowed = " or ".join(orjson.dumps(value).decode() for value in harmless if value is not None)
                fix = f"leave it out, or send {allowed}" if allowed else "leave it out"
                return Refused(Reason.BAD_REQUEST, f"This model does not support `{name}`: {fix}.", name)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > MAX_STOPS:
            return Refused(Reason.BAD_REQUEST, f"`stop` takes at most {MAX_STOPS} texts.", "stop")
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=(seed if self.seed is None else self.seed) & 0x7FFFFFFFFFFFFFFF,
            max_tokens=min(self.wanted_tokens(), room),
            stop=stop,
            ignore_eos=bool(self.ignore_eos),
        )


class ChatBody(TextBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Tokens | None = None
    top_logprobs: Any = None
    tools: Any = None
    functions: Any = None
    response_format: Any = None
    audio: Any = None

    @property
    def prompt_field(self) -> str:
        return "messages"

    def prompt_ids(self, text: Text) -> list[int] | Refused:
        try:
            return text.encode_chat(self.messages)
        except ValueError as error:
            return Refused(Reason.BAD_REQUEST, str(error), "messages")

    def unsupported(self) -> Mapping[str, tuple[object, ...]]:
        return {
            **super().unsupported(),
            "top_logprobs": (None, 0),
            "tools": (None, []),
            "functions": (None, []),
            "response_format": (None, {"type": "text"}),
            "audio": (None,),
        }

    def wanted_tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or CHAT_TOKENS


class CompletionBody(TextBody, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Any
    echo: Any = None
    suffix: Any = None

    @property
    def prompt_field(self) -> str:
        return "prompt"

    def prompt_ids(self, text: Text) -> list[int] | Refused:
        """One text, or one list of this model's token ids; each possibly alone in a list."""
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
            if len(prompt) > 1:
                return Refused(Reason.BAD_REQUEST, "One prompt per request: send several requests.", "prompt")
            prompt = prompt[0]
        if isinstance(prompt, str):
            ids = text.encode(prompt)
            return ids or Refused(Reason.BAD_REQUEST, "The prompt is empty.", "prompt")
        if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
            return Refused(Reason.BAD_REQUEST, "`prompt` is a text or a list of token ids.", "prompt")
        if not all(0 <= token < text.vocabulary for token in prompt):
            message = f"Token ids of this model are 0 to {text.vocabulary - 1}."
            return Refused(Reason.BAD_REQUEST, message, "prompt")
        return prompt

    def unsupported(self) -> Mapping[str, tuple[object, ...]]:
        return {**super().unsupported(), "echo": (None, False), "suffix": (None, "")}


class ResponseBody(TextBody, kw_only=True):
    """`POST /v1/responses`, of which nothing is stored: the whole conversation comes with each request."""

    input: Any
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    metadata: dict[str, str] | None = None
    background: Any = None
    conversation: Any = None
    include: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    reasoning: Any = None
    text: Any = None
    tools: Any = None
    tool_choice: Any = None
    top_logprobs: Any = None
    truncation: Any = None

    @property
    def prompt_field(self) -> str:
        return "input"

    def prompt_ids(self, text: Text) -> list[int] | Refused:
        turns = self._turns()
        if isinstance(turns, Refused):
            return turns
        try:
            return text.encode_chat(turns)
        except ValueError as error:
            return Refused(Reason.BAD_REQUEST, str(error), "input")

    def _turns(self) -> list[dict[str, str]] | Refused:
        """The conversation as chat messages: instructions first, then one text, or messages of texts."""
        turns = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        if isinstance(self.input, str):
            return [*turns, {"role": "user", "content": self.input}]
        if not isinstance(self.input, list) or not self.input:
            return Refused(Reason.BAD_REQUEST, "`input` is a text or a list of messages.", "input")
        for i, item in enumerate(self.input):
            role = str(item.get("role")) if isinstance(item, dict) and item.get("type", "message") == "message" else ""
            if role not in ROLES:
                message = f"This model reads messages only, whose role is one of {', '.join(ROLES)}."
                return Refused(Reason.BAD_REQUEST, message, f"input[{i}]")
            content = _plain_text(item.get("content"))
            if content is None:
                message = "This model reads text only: a text, or a list of `input_text` and `output_text` parts."
                return Refused(Reason.BAD_REQUEST, message, f"input[{i}].content")
            turns.append({"role": role, "content": content})
        return turns

    def unsupported(self) -> Mapping[str, tuple[object, ...]]:
        return {
            **super().unsupported(),
            "background": (None, False),
            "conversation": (None,),
            "include": (None, []),
            "previous_response_id": (None,),
            "prompt": (None,),
            "reasoning": (None, {}),
            "text": (None, {}, {"format": {"type": "text"}}),
            "tools": (None, []),
            "tool_choice": (None, "auto", "none"),
            "top_logprobs": (None, 0),
            "truncation": (None, "disabled"),
        }

    def wanted_tokens(self) -> int:
        return self.max_output_tokens or CHAT_TOKENS


def _plain_text(content: object) -> str | None:
    """A message's text; None when something else is in it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in TEXT_PARTS]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(content) else None


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    model: str
    input: Any
    encoding_format: Any = "float"
    dimensions: Any = None


def sentences(body: EmbeddingBody) -> list[str] | Refused:
    """The texts to embed."""
    if body.dimensions is not None:
        return Refused(Reason.BAD_REQUEST, "This model's vectors cannot be shortened: omit it.", "dimensions")
    if body.encoding_format not in ("float", "base64"):
        return Refused(Reason.BAD_REQUEST, 'This field takes "float" or "base64".', "encoding_format")
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not isinstance(texts, list) or not texts:
        return Refused(Reason.BAD_REQUEST, "`input` is a text or a list of texts.", "input")
    if len(texts) > MAX_INPUTS:
        return Refused(Reason.BAD_REQUEST, f"`input` takes at most {MAX_INPUTS} texts.", "input")
    for i, text in enumerate(texts):
        if isinstance(text, int | list):
            return Refused(Reason.BAD_REQUEST, "Token ids depend on the tokenizer: send texts.", "input")
        if not isinstance(text, str) or not text:
            return Refused(Reason.BAD_REQUEST, "Every input is a text of at least one character.", f"input[{i}]")
    return texts
