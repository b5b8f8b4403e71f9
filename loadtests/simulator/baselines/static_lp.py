"""A static split: the fluid program's own answer to the mean load, followed without looking."""

from __future__ import annotations

import random
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import msgspec
import numpy as np

from loadtests.simulator import fluid
from loadtests.simulator.contender import Watching
from loadtests.simulator.mix import Mix, typical
from loadtests.simulator.runs import full_rate
from loadtests.simulator.world import World
from policies.balancers import better_of_two
from policies.candidates import Candidates
from policies.request import INFINITE, Request

Shares = tuple[list[str], list[float]]
"""Groups of nodes, and their shares added up."""
Key = tuple[float, float, int]
"""First-token and total deadline as granted, and bucket of the prompt."""
KEPT = 128
"""Splits: all gateways of a run share one solution."""


class StaticLp(Watching):
    """Weights per gateway, deadline class and size from the linear program of the mean load; in the group that is
    drawn, the better of two by requests outstanding.

    After Melange (Griggs et al., arXiv 2404.14527), which splits request sizes over accelerator types by such a
    program, and keeps the split. What it needs of the future (the rate and the mix) it is told.
    """

    def __init__(self, world: World, gateway: str) -> None:
        self._mix, self._shares = split(msgspec.json.encode(world), gateway)

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        columns, outstanding = candidates.columns, candidates.columns.outstanding
        shares = self._shares.get(self._key(candidates.request))
        if shares is not None:
            groups, steps = shares
            group = groups[bisect_right(steps, rng.random() * steps[-1])]
            own = np.fromiter(
                (group_of(node.worker.id) == group for node in columns.nodes), np.bool_, len(columns.nodes)
            )
            slot = better_of_two(candidates.eligible & own, outstanding, rng)
            if slot is not None:
                return slot
        return better_of_two(candidates.eligible, outstanding, rng)  # what the program left unserved, or a group gone

    def _key(self, request: Request) -> Key:
        granted = request.first_token_deadline - request.arrived, request.deadline - request.arrived
        return rounded(granted[0]), rounded(granted[1]), self._mix.bucket(request.prompt_tokens)


def rounded(seconds: float | None) -> float:
    """Of a deadline, to the millisecond: so that it is the same whatever the clock says."""
    return INFINITE if seconds is None else round(seconds, 3)


def group_of(worker_id: str) -> str:
    """`{region}-{name}` of the world's nodes."""
    return worker_id.rpartition("-")[0]


@lru_cache(maxsize=KEPT)
def split(encoded: bytes, gateway: str) -> tuple[Mix, dict[Key, Shares]]:
    """A gateway's part of the solution for a world (as JSON)."""
    bound = solution(encoded)
    flows: dict[Key, dict[str, float]] = {}
    for kind, row in zip(bound.mix.kinds, bound.flows, strict=True):
        if kind.gateway == gateway and row.any():
            key = rounded(kind.asked.first_token_s), rounded(kind.asked.total_s), kind.bucket
            groups = flows.setdefault(key, {})
            for j in row.nonzero()[0]:
                nodes = bound.pools[j].nodes
                name = f"{nodes.region}-{nodes.name}"
                groups[name] = groups.get(name, 0.0) + float(row[j])
    return bound.mix, {key: (list(groups), list(accumulate(groups.values()))) for key, groups in flows.items()}


@lru_cache(maxsize=4)
def solution(encoded: bytes) -> fluid.Bound:
    world = msgspec.json.decode(encoded, type=World)
    return fluid.steady(world, typical(world), full_rate(world) * world.load)
