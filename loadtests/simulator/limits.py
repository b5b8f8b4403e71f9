"""The fluid bound of every case: what nobody can beat in the very requests that were offered, averaged over seeds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import fmean

from msgspec.structs import replace

from loadtests.simulator import fluid
from loadtests.simulator.definitions import Case
from loadtests.simulator.kept import digest
from loadtests.simulator.runs import full_rate, planned
from loadtests.simulator.spread import spread
from loadtests.simulator.statistics import Limit, key
from loadtests.simulator.world import Control, Queue, World

Key = tuple[str, tuple[tuple[str, object], ...]]


def limits(cases: Sequence[Case], seeds: Sequence[int], processes: int = 1) -> dict[Key, Limit]:
    """By scenario and label, as `statistics.gather` looks them up. Worlds that are the same to a fluid share theirs."""
    fluids = [_fluid(world) for _, world in cases]
    distinct = list(dict.fromkeys(digest(world) for world in fluids))
    firsts = [Case({}, next(world for world in fluids if digest(world) == one)) for one in distinct]
    found = dict(spread(functools.partial(limit, seeds=seeds), firsts, processes))
    return {
        (world.name, key(label)): found[distinct.index(digest(same))]
        for (label, world), same in zip(cases, fluids, strict=True)
    }


def _fluid(world: World) -> World:
    """A world without what a fluid does not know: news, and an order in which to wait."""
    return replace(world, control=Control(), serving=replace(world.serving, queue=Queue.FIFO))


def limit(case: Case, seeds: Sequence[int]) -> Limit:
    world = case.world
    plans = [planned(world, seed) for seed in seeds]
    bounds = [fluid.run_bound(world, plan) for plan in plans]
    steady = fluid.bound(world, plans[0], full_rate(world) * world.load)
    return Limit(
        attainment=fmean(bound.attainment for bound in bounds),
        cost_per_1k=fmean(bound.cost_per_1k for bound in bounds),
        steady_attainment=steady.attainment,
        steady_cost_per_1k=steady.cost_per_1k,
    )
