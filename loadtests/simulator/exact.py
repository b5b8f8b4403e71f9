"""The exact optimum of a small world, by integer programming: who is served where and when, on a grid of time.

For worlds in closed form without chance: one slot per node, no decoding, no noise, no slow periods. y[j,i,t] = 1 when
request j starts on node i in grid step t. A node does one thing at a time; a request starts once at most, not before it
can be there and not after its last token could still be back in time. Phase 1 maximises how many are in time, phase 2
minimises what they cost.

Instants need not lie on the grid, only service times must be multiples of it: moving every start of a schedule down to
the grid keeps jobs apart (their lengths are whole steps), so the optimum on the grid bounds any schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from loadtests.simulator.fluid import prefill
from loadtests.simulator.mix import entrance
from loadtests.simulator.world import CostMode, Nodes, World, WorldError
from loadtests.sizes import Floats
from loadtests.workload import Planned
from policies.cost import SECONDS_PER_HOUR

MOST_NODES = 8
MOST_REQUESTS = 60
"""Beyond these the program has more than a few ten thousand columns, and minutes are not enough."""
HORIZON = 400
"""Steps between a request's first and last possible start that are considered at most; later starts are no use to a
schedule that is as busy as these worlds allow."""
CLOSE = 1e-6
"""Of a step: rounding of floats is no reason to lose one."""


class Optimum(NamedTuple):
    served: int
    """Requests in deadline."""
    usd: float
    """What these cost at least."""


class _Start(NamedTuple):
    request: int
    node: int
    step: int
    steps: int
    """How long it takes."""
    usd: float


def optimum(world: World, plan: Sequence[Planned], step_s: float) -> Optimum:
    """Of all requests of a plan. Raises WorldError for a world that is not of this kind, or too large."""
    starts = _starts(world, plan, step_s)
    if not starts:
        return Optimum(0, 0.0)
    apart = _apart(starts, len(plan))
    chosen = _solve(-np.ones(len(starts)), [apart])
    served = round(float(chosen.sum()))
    as_many = LinearConstraint(np.ones((1, len(starts))), lb=served)
    usd = np.array([start.usd for start in starts])
    # Scaled to the dearest: the tolerances of the solver are absolute.
    chosen = _solve(usd / max(usd.max(), 1e-12), [apart, as_many])
    return Optimum(served, float(usd @ chosen))


def _starts(world: World, plan: Sequence[Planned], step_s: float) -> list[_Start]:
    """Every start that could still be in time."""
    nodes = [(each, world.profiles[each.profiles[0]]) for each in world.nodes for _ in range(each.count)]
    _check(world, plan, nodes)
    starts = []
    for number, planned in enumerate(plan):
        gateway = entrance(world, planned.origin)
        deadline = min(planned.kind.first_token_s or math.inf, planned.kind.total_s or math.inf)
        for index, (each, profile) in enumerate(nodes):
            seconds = prefill(profile, planned.prompt_tokens)
            steps = round(seconds / step_s)
            if not math.isclose(steps * step_s, seconds, rel_tol=1e-6) or steps < 1:
                raise WorldError(f"{world.name}: {seconds:g} s of service is no multiple of the step, {step_s:g} s")
            way = world.round_trip(gateway, each.region).min_ms / 2e3
            first = math.floor((planned.at + way) / step_s + CLOSE)
            last = math.floor((planned.at + deadline - way) / step_s + CLOSE) - steps
            usd = seconds * each.usd_per_hour / SECONDS_PER_HOUR if each.cost is CostMode.MARGINAL else 0.0
            starts += [_Start(number, index, t, steps, usd) for t in range(first, min(last, first + HORIZON) + 1)]
    return starts


def _check(world: World, plan: Sequence[Planned], nodes: Sequence[tuple[Nodes, object]]) -> None:
    serving = world.serving
    if len(nodes) > MOST_NODES or len(plan) > MOST_REQUESTS:
        raise WorldError(f"{world.name}: exact for {MOST_NODES} nodes and {MOST_REQUESTS} requests at most")
    if serving.noise or (serving.slow_factor > 1.0 and any(serving.slow_share)):
        raise WorldError(f"{world.name}: exact without noise and slow periods only")
    if any(profile.slots > 1 for profile in world.profiles.values()) or any(each.output_tokens > 1 for each in plan):
        raise WorldError(f"{world.name}: exact with one slot a node and one token an answer only")
    if any(place.egress_usd_per_gb for place in world.regions.values()):
        raise WorldError(f"{world.name}: exact without egress only")


def _apart(starts: Sequence[_Start], requests: int) -> LinearConstraint:
    """A request starts once at most, and a node does one thing in a step."""
    rows: list[int] = []
    columns: list[int] = []
    cells: dict[tuple[int, int], int] = {}
    for column, start in enumerate(starts):
        rows.append(start.request)
        columns.append(column)
        for step in range(start.step, start.step + start.steps):
            rows.append(requests + cells.setdefault((start.node, step), len(cells)))
            columns.append(column)
    matrix = coo_array((np.ones(len(rows)), (rows, columns)), shape=(requests + len(cells), len(starts)))
    return LinearConstraint(matrix.tocsr(), ub=1.0)


def _solve(goal: Floats, constraints: Sequence[LinearConstraint]) -> Floats:
    result = milp(goal, constraints=constraints, integrality=np.ones(len(goal)), bounds=Bounds(0, 1))
    if result.x is None:
        raise WorldError(f"the integer program has no solution ({result.message})")
    return result.x
