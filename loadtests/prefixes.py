"""Who goes on from whom: conversations, whose every request repeats the one before and adds to it.

A prompt is a row of blocks; equal leading ids are equal beginnings, which an engine that still has them need not
compute again. The first blocks are the same for all: the system prompt. How often and by how much conversations go
on is fitted to Mooncake's trace, whose timestamps and block hashes show it.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from loadtests.arrivals import Moments
from loadtests.sizes import BLOCK_TOKENS, Fit, Floats, Ints, fitted

Prefix = tuple[int, ...]


class Sessions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conversations, shaped like those of a trace."""

    like: str = "mooncake-conversation"
    """Name of a fit."""
    follow_ups: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Share of the requests that go on from an earlier one; the fit's unless given."""
    think_s: Annotated[float, Meta(gt=0)] | None = None
    """Mean time from a request to the one that goes on from it; the fit's unless given."""

    def __post_init__(self) -> None:
        if fitted(self.like).reuse is None:
            raise ValueError(f"like: the fit {self.like!r} knows of no conversations")

    def shape(self) -> Fit:
        """The fit, with what is asked for in place of its own."""
        fit = fitted(self.like)
        assert fit.reuse is not None
        asked = {"follow_ups": self.follow_ups, "think_s": self.think_s}
        own = {field: value for field, value in asked.items() if value is not None}
        return msgspec.structs.replace(fit, reuse=msgspec.structs.replace(fit.reuse, **own))


class Talk(NamedTuple):
    """What conversations make of a plan's requests."""

    prompt_tokens: Ints
    root: list[int]
    """The request that each one's conversation began with: itself, for one that goes on from none."""
    prefix: list[Prefix]


def talk(shape: Fit, times: Moments, prompt_tokens: Ints, rng: np.random.Generator) -> Talk:
    """Conversations among requests whose sizes would be these if each were a first one.

    Whoever goes on from before the plan's start has the size for it, in a conversation that no cache has seen.
    """
    reuse, levels, requests = shape.reuse, shape.levels, len(times.at)
    assert reuse is not None
    think = reuse.think_s * np.interp(rng.uniform(size=requests), levels, reuse.think)
    parents = _parents(times, times.at - think, rng.uniform(size=requests) < reuse.follow_ups)
    grown = np.rint(np.interp(rng.uniform(size=requests), levels, reuse.grown_blocks)).astype(np.int64).tolist()
    preamble = tuple(range(reuse.shared_blocks))
    tokens, roots = prompt_tokens.tolist(), list(range(requests))
    prefixes: list[Prefix] = []
    fresh = reuse.shared_blocks
    for number, parent in enumerate(parents):
        if parent >= 0:
            # The parent's last block is part full: with what follows it becomes another one.
            old = prefixes[parent][: max(len(prefixes[parent]) - 1, len(preamble))]
            blocks = max(1, len(old) + grown[number])
            tokens[number] = blocks * BLOCK_TOKENS - tokens[number] % BLOCK_TOKENS
            roots[number] = roots[parent]
        else:
            blocks = -(-tokens[number] // BLOCK_TOKENS)
            old = preamble[:blocks]
        new = max(0, blocks - len(old))
        prefixes.append(old + tuple(range(fresh, fresh + new)))
        fresh += new
    return Talk(np.array(tokens, np.int64), roots, prefixes)


def _parents(times: Moments, wanted: Floats, follows: NDArray[np.bool_]) -> list[int]:
    """For each request the last one of its origin before the wanted time; -1 where there is none, or none is due."""
    parents = np.full(len(times.at), -1)
    for origin in np.unique(times.origin):
        (own,) = np.nonzero(times.origin == origin)
        found = np.searchsorted(times.at[own], wanted[own]) - 1
        parents[own] = np.where((found >= 0) & follows[own], own[found], -1)
    return parents.tolist()


def first_sizes(sessions: Sessions | None, sizes: str) -> Fit:
    """Sizes of first requests: those of all, unless the same trace has conversations and can tell them apart."""
    fit = fitted(sizes)
    if sessions is None or sizes != sessions.like or fit.reuse is None:
        return fit
    return msgspec.structs.replace(fit, prompt_tokens=fit.reuse.first_prompt_tokens)
