"""The fluid bound of every case: what nobody can beat in the very requests that were offered, averaged over seeds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import fmean

from loadtests.simulator import fluid
from loadtests.simulator.definitions import Case
from loadtests.simulator.runs import full_rate, planned, spread
from loadtests.simulator.statistics import Limit, key

Key = tuple[str, tuple[tuple[str, object], ...]]


def limits(cases: Sequence[Case], seeds: Sequence[int], processes: int = 1) -> dict[Key, Limit]:
    """By scenario and label, as `statistics.gather` looks them up."""
    found = dict(spread(functools.partial(limit, seeds=seeds), cases, processes))
    return {(world.name, key(label)): found[place] for place, (label, world) in enumerate(cases)}


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
