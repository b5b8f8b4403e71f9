"""What load to offer: arrivals, kinds, sizes and deadlines, drawn from one seed before the first request is sent.

A plan is offsets from its start, so it runs under any clock, virtual or wall. The same workload and seed give the
same plan, request by request, however many policies it is run under. `live/client.py` and `showcase.py` send plans.
"""

from __future__ import annotations

import enum
import math
import random
from typing import Annotated

import msgspec
from msgspec import Meta


class Surface(enum.Enum):
    """The API a request uses."""

    CHAT = "chat"
    CHAT_STREAM = "chat_stream"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    INFER = "infer"


class Arrivals(enum.Enum):
    """When requests come: a Poisson process, or evenly spaced."""

    POISSON = "poisson"
    EVEN = "even"


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sort of request in a mix."""

    name: str
    surface: Surface
    model: str
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """Its share of the mix, relative to the others' weights."""
    deadline: Annotated[float, Meta(gt=0)] | None = None
    """Seconds it grants end to end; `None` when it does not care."""
    min_quality: Annotated[float, Meta(ge=0, le=2)] | None = None
    prompt_words: tuple[int, int] = (8, 24)
    """Smallest and largest prompt, both included."""
    output_tokens: tuple[int, int] = (8, 24)
    items: tuple[int, int] = (1, 1)


class Planned(msgspec.Struct, frozen=True):
    """One request to send `at` seconds after the start."""

    number: int
    at: float
    kind: Kind
    prompt_words: int
    output_tokens: int
    items: int
    seed: int
    """What its content is drawn from."""


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mix at a rate. Shares are exact, not drawn: each kind comes in proportion to its weight, in shuffled order."""

    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1)]
    rate: Annotated[float, Meta(gt=0)]
    """Requests per second."""
    arrivals: Arrivals = Arrivals.POISSON

    def plan(self, requests: int, seed: int) -> list[Planned]:
        rng = random.Random(seed)
        kinds = share_out(self.kinds, requests)
        rng.shuffle(kinds)
        plan = []
        at = 0.0
        for number, kind in enumerate(kinds):
            words = rng.randint(*kind.prompt_words)
            tokens = rng.randint(*kind.output_tokens)
            plan.append(Planned(number, at, kind, words, tokens, rng.randint(*kind.items), rng.getrandbits(31)))
            at += rng.expovariate(self.rate) if self.arrivals is Arrivals.POISSON else 1 / self.rate
        return plan


def share_out(kinds: tuple[Kind, ...], requests: int) -> list[Kind]:
    """As many of each kind as its weight says, by largest remainder."""
    total = sum(kind.weight for kind in kinds)
    exact = [requests * kind.weight / total for kind in kinds]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(kinds)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: requests - sum(counts)]:
        counts[i] += 1
    return [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]


_WORDS = (
    "the a small large red green quiet ship river house winter market garden bread letter teacher doctor engine "
    "border music morning window station yellow paper holiday village mountain summer friend question answer"
)


def prose(words: int, seed: int) -> str:
    """A prompt of so many words."""
    return " ".join(random.Random(seed).choices(_WORDS.split(), k=words))


class Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A deadline class: what a share of the requests grants. Seconds; `None` grants without end."""

    name: str
    share: Annotated[float, Meta(gt=0)]
    first_token_s: Annotated[float, Meta(gt=0)] | None = None
    total_s: Annotated[float, Meta(gt=0)] | None = None
    token_interval_s: Annotated[float, Meta(gt=0)] | None = None
    probability: float = 0.95
    quality: Annotated[float, Meta(ge=0, le=2)] = 0.0
    min_quality: Annotated[float, Meta(ge=0, le=2)] = 0.0


class Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What clients ask for, beside the rate."""

    classes: Annotated[tuple[Class, ...], Meta(min_length=1)]
