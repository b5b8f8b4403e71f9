"""What routing reads of a request's body, whichever surface it came on, and the one test of its nesting depth.

Sizes here are estimates to decide by; the bytes themselves are forwarded untouched. Read by `openai/requests.py` and
`oip.py`, merged with headers and defaults by `routes.py`.
"""

import enum
import re
import zlib

import msgspec
import numpy as np

from policies.request import INFINITE, Sort

MAX_DEPTH = 64
"""Deepest nesting of a body (gate rule 10): real requests stay below 20, parsers of workers break at hundreds."""


class Kind(enum.Enum):
    """What is asked for, by path: it decides what comes back, and whether tokens are generated."""

    CHAT = ("chat", True)
    COMPLETION = ("completion", True)
    RESPONSE = ("response", True)
    EMBEDDING = ("embedding", False)
    RERANK = ("rerank", False)
    TENSOR = ("tensor", False)
    OTHER = ("other", False)

    def __init__(self, label: str, generates: bool) -> None:
        self.label = label
        self.generates = generates
        """Whether the answer grows with generated tokens. A plain attribute: it is read for every request."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """The body's `provider` object, as OpenRouter defines it (openrouter.ai/docs/features/provider-routing).

    `order`, `only` and `ignore` name worker ids, regions or clouds; prices are US dollars per million tokens.
    """

    max_prompt: float = INFINITE
    max_completion: float = INFINITE
    quantizations: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    sort: Sort | None = None
    allow_fallbacks: bool = True


class Body(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """The fields of one body that routing uses."""

    kind: Kind
    model: str
    bytes: int
    """Size of the body as received."""
    stream: bool = False
    prompt_tokens: float = 0.0
    """Estimate."""
    max_tokens: int | None = None
    """The client's bound on each answer's length."""
    output_tokens: float | None = None
    """The client's own guess of each answer's length."""
    choices: int = 1
    """Answers generated per request (`n`, `best_of`)."""
    items: int = 1
    """Independent inputs: texts to embed, documents to rank, rows of a tensor."""
    variants: tuple[str, ...] = ()
    """The variants asked for by the path (OIP's model version)."""
    grpc: bool = False
    """Whether it came by gRPC, and goes on by it."""
    has_provider: bool = False
    """Whether there is a `provider` member to cut out, be it null."""
    provider: Provider | None = None
    service_tier: str = ""
    affinity: str = ""


PREFIX_BYTES = 1024
"""Of a prompt that say where it belongs: some 250 tokens, a system prompt's worth. A shorter one saves no prefill."""
_PROMPTS = (b'"messages"', b'"prompt"', b'"input"')


def beginning(raw: bytes) -> str:
    """A key that prompts with the same first kilobyte share, whatever follows; empty for shorter ones. Of the bytes as
    sent: a client writes the same beginning the same way. 3 to 4 us, for routes that ask for it."""
    for name in _PROMPTS:
        start = raw.find(name)
        if start >= 0:
            end = start + PREFIX_BYTES
            return f"prefix-{zlib.crc32(raw[start:end]):08x}" if end <= len(raw) else ""
    return ""


_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ALL_BUT_OPENERS = bytes(byte for byte in range(256) if byte not in b"[{")
_OPENERS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def too_deep(raw: bytes) -> bool:
    """Whether valid JSON nests deeper than `MAX_DEPTH`. Linear in the body, and no Python loop over it."""
    if len(raw.translate(None, _ALL_BUT_OPENERS)) <= MAX_DEPTH:  # counting each would take two passes
        return False
    brackets = _STRINGS.sub(b"", raw).translate(_OPENERS, _ALL_BUT_BRACKETS)
    steps = 92 - np.frombuffer(brackets, np.int8)  # "[" is 91 and "]" is 93: +1 and -1
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)) > MAX_DEPTH
