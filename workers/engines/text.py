"""Text in and out of a language model: tokens, chat template, sampling settings, incremental detokenising.

Pure computation, nothing shared between requests but `Text`, which is immutable after construction. The slot engine
(`slots.py`) works on token ids only; what reads requests calls `Text` before it and a `Detokenizer` after it.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jinja2
import jinja2.sandbox
import msgspec
import numpy as np
import tokenizers

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles a chat may use, and the role the template sees: newer clients say `developer` where older said `system`."""
MAX_CHARACTERS = 200_000
"""A prompt longer than this is refused unread: it fits no model served here, and tokenizing it takes 0.1 s and more."""
MAX_STOPS = 4
"""OpenAI's own limit on `stop`."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose the tokens of one answer. The defaults are OpenAI's; without a `seed` from the client, the caller
    draws one, because the same seed and prompt always give the same answer."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    """0 is greedy: the likeliest token, always the same answer."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Sample only among the likeliest tokens that together reach this share."""
    seed: int = 0
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] = 256
    stop: tuple[str, ...] = ()
    """Texts that end the answer; watched by the `Detokenizer`, not by the engine."""
    ignore_eos: bool = False
    """Go on past the end-of-answer token until `max_tokens`: load tests want answers of a known length."""


def readable(prompt: Sequence[int], context: int, vocabulary: int) -> None:
    """Raises ValueError when a prompt is empty, leaves no room for an answer, or is not of this vocabulary."""
    if not prompt:
        raise ValueError("the prompt is empty")
    if len(prompt) >= context:
        raise ValueError(f"the prompt has {len(prompt)} tokens; the model reads at most {context - 1}")
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise ValueError(f"the prompt has a token outside 0..{vocabulary - 1}")


def sample(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """Choose one token id from one row of logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order])
        kept = order[: int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1]
        weights = weights[kept]
    else:
        kept = None
    mass = np.cumsum(weights)
    drawn = min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(mass) - 1)
    return drawn if kept is None else int(kept[drawn])


class Text:
    """A byte-level BPE tokenizer with its chat template.

    What a client writes is never read as a control token: markers such as `<|end|>` in a message stay plain text.
    """

    def __init__(self, tokenizer: Path, template: str, end: str, begin: str = "") -> None:
        """`end` is the token that closes an answer; `begin`, if any, opens every prompt given without a template."""
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._plain = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._plain.encode_special_tokens = True
        self._template = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
        ).from_string(template)
        self._markers = tuple(t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special)
        self.end = self._id_of(end)
        self.begin = self._id_of(begin) if begin else None
        self.vocabulary = self._tokenizer.get_vocab_size()
        self.pieces = tuple(self._piece(i) for i in range(self.vocabulary))
        """The bytes each token stands for; control tokens stand for none."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, opened with the begin token where the model has one.

        Raises ValueError when it is absurdly long.
        """
        _bound(text)
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return ids if self.begin is None else [self.begin, *ids]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a chat up to where the answer begins.

        Raises ValueError that names the message and field at fault.
        """
        if not messages:
            raise ValueError("messages is empty: send at least one message")
        turns = [self._turn(i, message) for i, message in enumerate(messages)]
        prompt = self._template.render(messages=turns, add_generation_prompt=True)
        _bound(prompt)
        return self._tokenizer.encode(prompt, add_special_tokens=False).ids

    def count(self, text: str) -> int:
        return len(self._plain.encode(text, add_special_tokens=False).ids)

    def _turn(self, index: int, message: Mapping[str, Any]) -> dict[str, str]:
        if not isinstance(message, Mapping):
            raise ValueError(f"messages[{index}] must be an object with role and content")
        role = ROLES.get(str(message.get("role")))
        if role is None:
            raise ValueError(f"messages[{index}].role must be one of {', '.join(ROLES)}")
        content = _flatten(message.get("content"), f"messages[{index}].content")
        for marker in self._markers:
            content = content.replace(marker, f"{marker[0]} {marker[1:]}")
        return {"role": role, "content": content}

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return found

    def _piece(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token)
        if text is None or text in self._markers:
            return b""
        return bytes(_BYTE_OF[character] for character in text)


def _bound(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are read")


def _flatten(content: object, where: str) -> str:
    """OpenAI's `content` is a string or a list of parts, of which this side reads the text ones."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"{where} must be a string or a list of text parts")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where}[{i}] must be a text part: this model reads text only")
        texts.append(part["text"])
    return "".join(texts)


def _byte_table() -> dict[str, int]:
    """Character -> byte of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_table()


class Detokenizer:
    """Turns one answer's tokens into text as they come.

    A character split over tokens is held back until it is whole, and so is anything that may be the start of a stop
    text. Once `stopped`, nothing more comes out; the stop text itself is never shown.
    """

    def __init__(self, text: Text, stop: Sequence[str] = ()) -> None:
        self._pieces = text.pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is now certain, often one token's, sometimes empty."""
        return self._advance(self._decode(self._pieces[token]))

    def finish(self) -> str:
        """What was still held back when the answer ended."""
        if self.stopped:
            return ""
        rest = self._advance(self._decode(b"", True))
        if self.stopped:
            return rest
        held, self._held = self._held, ""
        return rest + held

    def _advance(self, new: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return new
        seen = self._held + new
        found = [at for at in (seen.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return seen[: min(found)]
        keep = max(_overlap(seen, s) for s in self._stop)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
