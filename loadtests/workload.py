"""What load to offer: arrivals, classes, sizes and deadlines, drawn from one seed before the first request is sent.

A plan is offsets from its start, so it runs under any clock: the simulator's virtual one, or the wall's
(`live/client.py`, `showcase.py`). The same demand and seed give the same plan, request by request, however many
policies it is run under. When: arrivals.py; how large: sizes.py; after whom: prefixes.py; as recorded: traces.py.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from loadtests import traces
from loadtests.arrivals import Arrivals, Burst, Day, Moments, NotNegative, Origin, Positive, moments
from loadtests.prefixes import Prefix, Sessions, first_sizes, talk
from loadtests.sizes import BLOCK_TOKENS, Fit, Ints, Ranges, Tokens, fitted, uniform
from policies.estimate import CLASSES

PROBABILITY = 0.95
"""How surely a deadline is to be met, for whoever does not say."""
Sizes = Fit | Ranges | traces.Trace
NOWHERE: Mapping[str, Origin] = {"": Origin()}
"""For a load on one gateway."""


class Surface(enum.Enum):
    """The API a request uses."""

    CHAT = "chat"
    CHAT_STREAM = "chat_stream"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    INFER = "infer"


class Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sort of request in a mix, and the deadlines it grants. Seconds; `None` grants without end."""

    name: str
    share: Positive = 1.0
    """Of the mix, relative to the others' shares."""
    first_token_s: Positive | None = None
    total_s: Positive | None = None
    token_interval_s: Positive | None = None
    probability: float = PROBABILITY
    """How surely: one of the router's classes."""
    quality: Annotated[float, Meta(ge=0, le=2)] = 0.0
    min_quality: Annotated[float, Meta(ge=0, le=2)] = 0.0
    surface: Surface = Surface.CHAT_STREAM
    model: str = "llm"
    prompt_tokens: tuple[Tokens, Tokens] | None = None
    """Smallest and largest, both included; `None` draws from the demand's sizes."""
    output_tokens: tuple[Tokens, Tokens] | None = None
    items: tuple[Tokens, Tokens] = (1, 1)

    def __post_init__(self) -> None:
        if self.probability not in CLASSES:
            raise ValueError(f"probability: {self.probability:g} is none of {', '.join(map(str, CLASSES))}")
        for field in ("prompt_tokens", "output_tokens", "items"):
            bounds = getattr(self, field)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{field}: the first of a range is its lower end")


class Tenants(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who asks."""

    count: Annotated[int, Meta(ge=1)] = 1
    skew: NotNegative = 0.0
    """Zipf's exponent: the k-th tenant sends 1/k**skew of what the first does."""


class TraceRate(enum.Enum):
    """How fast a trace is replayed."""

    WORLD = "world"
    """At the rate asked for: its time is stretched or pressed."""
    OWN = "own"
    """As it was recorded."""


class Planned(msgspec.Struct, frozen=True, gc=False):
    """One request to send `at` seconds after the start."""

    number: int
    at: float
    kind: Class
    prompt_tokens: int
    output_tokens: int
    items: int
    seed: int
    """What its content is drawn from."""
    origin: str = ""
    """Region it comes from."""
    tenant: str = ""
    session: str = ""
    """Conversation it belongs to, if any."""
    prefix: Prefix = ()
    """Ids of its prompt's blocks of 512 tokens, in order: equal leading ids are equal beginnings."""

    @property
    def model(self) -> str:
        return self.kind.model

    @property
    def stream(self) -> bool:
        return self.kind.surface is Surface.CHAT_STREAM


class Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What clients ask for, beside the rate. Shares of classes are exact, not drawn, in shuffled order."""

    classes: Annotated[tuple[Class, ...], Meta(min_length=1)]
    sizes: str | Ranges = "azure-conversation"
    """Name of a fit (`fitted/`), or ranges."""
    arrivals: Arrivals = Arrivals()
    bursts: tuple[Burst, ...] = ()
    day: Day | None = None
    tenants: Tenants = Tenants()
    sessions: Sessions | None = None
    trace: str | None = None
    """Path of recorded requests, in place of sizes and sessions. Where it has times, of arrivals and bursts too; a day
    then decides only where they come from."""
    trace_rate: TraceRate = TraceRate.WORLD

    def __post_init__(self) -> None:
        if isinstance(self.sizes, str):
            fitted(self.sizes)

    def plan(
        self, rate: float, seconds: float, origins: Mapping[str, Origin] = NOWHERE, seed: int = 0
    ) -> list[Planned]:
        """The requests of `seconds` at a mean `rate` per second over all origins, in the order of their times."""
        # A stream of chance for each aspect: other sizes leave the arrivals as they are.
        streams = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(6)]
        when, what, large, who, content, after = streams
        names = list(origins)
        times, rows = self._times(rate, seconds, origins, when)
        requests = len(times.at)
        indices = what.permutation(np.repeat(np.arange(len(self.classes)), share_out(self.classes, requests)))
        prompts, outputs, items = self._sized(indices, rows, large)
        kinds = [self.classes[index] for index in indices.tolist()]
        tenants = self._tenants(times, who)
        sessions = [""] * requests
        prefixes: list[Prefix] = [()] * requests
        if rows is not None:
            kinds, tenants, prefixes = self._recorded(rows, kinds, tenants)
        elif self.sessions is not None:
            talked = talk(self.sessions.shape(), times, prompts, after)
            prompts, prefixes = talked.prompt_tokens, talked.prefix
            sessions = [f"session-{root}" for root in talked.root]
            tenants = [tenants[root] for root in talked.root]
        columns = (
            range(requests), times.at.tolist(), kinds, prompts.tolist(), outputs.tolist(), items.tolist(),
            content.integers(2**31, size=requests).tolist(), [names[index] for index in times.origin.tolist()], tenants,
            sessions, prefixes,
        )  # fmt: skip
        return [Planned(*row) for row in zip(*columns, strict=True)]

    def mean(self, kind: Class) -> tuple[float, float]:
        """Prompt and output tokens that a request of this class has in the mean: what a client could know."""
        return self._typical(kind, lambda sizes: sizes.mean())

    def median(self, kind: Class) -> tuple[float, float]:
        return self._typical(kind, lambda sizes: sizes.median())

    def _typical(self, kind: Class, of: Callable[[Sizes], tuple[float, float]]) -> tuple[float, float]:
        if self.trace is not None:
            return of(traces.load(self.trace))
        prompt, output = of(fitted(self.sizes) if isinstance(self.sizes, str) else self.sizes)
        if kind.prompt_tokens is not None:
            prompt = sum(kind.prompt_tokens) / 2
        if kind.output_tokens is not None:
            output = sum(kind.output_tokens) / 2
        return prompt, output

    def _times(
        self, rate: float, seconds: float, origins: Mapping[str, Origin], rng: np.random.Generator
    ) -> tuple[Moments, Ints | None]:
        """Arrivals, and which record of the trace each one is."""
        if self.trace is None:
            return moments(self.arrivals, self.bursts, self.day, rate, seconds, origins, rng), None
        trace = traces.load(self.trace)
        if trace.at is None:
            times = moments(self.arrivals, self.bursts, self.day, rate, seconds, origins, rng)
            return times, rng.integers(len(trace.records)) + np.arange(len(times.at))
        own = self.trace_rate is TraceRate.OWN
        at, rows = trace.window(None if own else rate, seconds, rng.uniform())
        places = {name: index for index, name in enumerate(origins)}
        shares = np.array([[origin.share] for origin in origins.values()])
        if self.day is not None:
            shares = np.array([self.day.factor(at, origin.longitude) for origin in origins.values()]) * shares
        # One per request, in proportion to what the origins send at that moment.
        ceilings = np.cumsum(np.broadcast_to(shares, (len(shares), len(at))), axis=0)
        drawn = (rng.uniform(size=len(at)) * ceilings[-1] >= ceilings[:-1]).sum(axis=0)
        told = [places.get(trace.recorded(row).region, -1) for row in rows.tolist()]
        where = np.where(np.array(told, np.int64) >= 0, told, drawn)
        return Moments(at, where, np.full(len(at), -1)), rows

    def _sized(self, indices: Ints, rows: Ints | None, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """Prompt tokens, output tokens and items."""
        items = np.ones(len(indices), np.int64)
        if rows is not None:
            assert self.trace is not None
            trace = traces.load(self.trace)
            rows = rows % len(trace.records)
            return trace.prompt_tokens[rows], trace.output_tokens[rows], items
        sizes = self.sizes if isinstance(self.sizes, Ranges) else first_sizes(self.sessions, self.sizes)
        prompts, outputs = sizes.draw(rng, len(indices))
        for index, kind in enumerate(self.classes):
            (own,) = np.nonzero(indices == index)
            if kind.prompt_tokens is not None:
                prompts[own] = uniform(rng, kind.prompt_tokens, len(own))
            if kind.output_tokens is not None:
                outputs[own] = uniform(rng, kind.output_tokens, len(own))
            if kind.items != (1, 1):
                items[own] = uniform(rng, kind.items, len(own))
        return prompts, outputs, items

    def _recorded(
        self, rows: Ints, kinds: list[Class], tenants: list[str]
    ) -> tuple[list[Class], list[str], list[Prefix]]:
        """Classes and tenants as the trace has them, else as drawn; and its prefixes."""
        assert self.trace is not None
        trace = traces.load(self.trace)
        named = {kind.name: kind for kind in self.classes}
        chosen = [trace.recorded(row) for row in rows.tolist()]
        return (
            [named.get(record.kind, kind) for record, kind in zip(chosen, kinds, strict=True)],
            [record.tenant or tenant for record, tenant in zip(chosen, tenants, strict=True)],
            [record.prefix for record in chosen],
        )

    def _tenants(self, times: Moments, rng: np.random.Generator) -> list[str]:
        weights = np.arange(1.0, self.tenants.count + 1) ** -self.tenants.skew
        drawn = rng.choice(self.tenants.count, len(times.at), p=weights / weights.sum())
        names = [f"tenant-{number + 1}" for number in range(self.tenants.count)]
        return [
            (self.bursts[burst].tenant if burst >= 0 else "") or names[tenant]
            for tenant, burst in zip(drawn.tolist(), times.burst.tolist(), strict=True)
        ]


def share_out(kinds: Sequence[Class], requests: int) -> list[int]:
    """How many there are of each kind, by largest remainder."""
    total = sum(kind.share for kind in kinds)
    exact = [requests * kind.share / total for kind in kinds]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(kinds)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: requests - sum(counts)]:
        counts[i] += 1
    return counts


_WORDS = (
    "the a small large red green quiet ship river house winter market garden bread letter teacher doctor engine "
    "border music morning window station yellow paper holiday village mountain summer friend question answer"
)


def prompt(planned: Planned, item: int = 0) -> str:
    """Its text. Equal blocks of a prefix are equal words, so that an engine finds the beginnings it has."""
    if not planned.prefix:
        return prose(planned.prompt_tokens, planned.seed + item)
    blocks = " ".join(prose(BLOCK_TOKENS, block) for block in planned.prefix)
    return " ".join(blocks.split(" ", planned.prompt_tokens)[: planned.prompt_tokens])


def prose(words: int, seed: int) -> str:
    """A prompt of so many words. Each is a token or two to most tokenizers."""
    return " ".join(random.Random(seed).choices(_WORDS.split(), k=words))
