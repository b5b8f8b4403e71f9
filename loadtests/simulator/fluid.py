"""The bound nobody beats: requests as a fluid, poured over the nodes by a linear program (algorithm.md 5.4).

A pool j is one profile of one entry of the world's nodes; x[k,j] is how many requests a second of kind k it is sent,
for pairs where the shortest round trip and the service alone still meet the deadline; r[j] is how many requests its
nodes decode at once. There is one window, as long as the run: what holds at every instant holds on average, so the
averages of every schedule satisfy

    sum_j x[k,j] <= arrivals                                       of each kind
    sum_k,j x[k,j] prefill[k,j] + drag[j] r[j] <= nodes            of each group: accelerator time
    sum_j r[j] <= nodes * slots                                    of each group
    r[j] >= nodes * f(tokens / nodes)                              f convex, as tangents: company slows decoding down

Phase 1 maximises what is served in deadline, phase 2 minimises its cost with that much served. Queueing, ignorance and
chance are left out, so attainment is bounded from above and cost from below; what could not be written linearly is on
the same side (interference is not billed, slow periods do not slow decoding).

In the steady program every request meets the average company on its node; it defines load 1.0. One run may do a little
better: nodes that begin empty, answers after its end, a favourable noise. `run_bound` grants all of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import coo_array, hstack, vstack

from loadtests.simulator.mix import Kind, Mix, sort_out, typical
from loadtests.simulator.world import CostMode, Nodes, Profile, World, WorldError
from loadtests.sizes import Floats, Ints
from loadtests.workload import Planned
from policies.cost import BYTES_PER_GB, SECONDS_PER_HOUR, TOKENS_PER_MTOK

Numbers = Floats | Ints

FULL = 0.99
"""Attainment at load 1.0."""
TANGENTS = 8
"""Per pool; between two of them f is off by at most 2 %."""
LEAST_COMPANY = 0.5
"""Of the average company, what requests meet at least when nodes are filled and run empty in turns: while a burst
builds up, each finds on average half of it."""
LUCK = 2.0
"""Standard deviations of noise granted to every request of a run."""
PATIENT_S = 120.0
"""How late work without a deadline may begin: as long as a run waits for it (runs.DRAIN_S)."""
SLACK = 1e-7
"""Relative: of the first phase's optimum in the second."""


class Shadow(NamedTuple):
    """What one more node of a group would save, by what it brings. US dollars per hour."""

    prefill: float
    slots: float


class Pool(NamedTuple):
    nodes: Nodes
    profile: Profile
    group: int
    """Index into the world's nodes, whose accelerators it uses."""


class Bound(NamedTuple):
    """What no policy can exceed (attainment) or undercut (cost)."""

    attainment: float
    """Share of the offered requests that can be served in deadline."""
    cost_per_1k: float
    """Least US dollars per 1,000 of them; where an attainment was given, of that many."""
    duals: dict[str, Shadow]
    """By group: `{region}-{name}` of the world's nodes."""
    mix: Mix
    pools: tuple[Pool, ...]
    flows: Floats
    """x[k, j] of the cheapest solution."""


class _Grant(NamedTuple):
    """How far a program is on the optimistic side."""

    company: float
    """Of the average, that a request meets at least."""
    luck: float
    """Factor on the service time of any single request."""
    slow_share: float
    seconds: float
    """Length of the window. What arrives in it may be served after it."""


def bound(world: World, plan: Sequence[Planned], rate: float, attainment: float | None = None) -> Bound:
    """Of a plan's mix, at a steady rate (requests per second)."""
    return steady(world, sort_out(world, plan), rate, attainment)


def steady(world: World, mix: Mix, rate: float, attainment: float | None = None) -> Bound:
    """Of a mix at a steady rate."""
    return _solve(_Program(world, mix, _mean_field(world)), rate, attainment)


def run_bound(world: World, plan: Sequence[Planned], attainment: float | None = None) -> Bound:
    """Of what one run counts, whatever luck it has."""
    counted = [planned for planned in plan if planned.at >= world.warm_up]
    seconds = world.seconds - world.warm_up
    luck = math.exp(-LUCK * world.serving.noise)
    grant = _Grant(LEAST_COMPANY, luck, world.serving.slow_share[0], seconds)
    return _solve(_Program(world, sort_out(world, counted), grant), len(counted) / seconds, attainment)


def full_rate(world: World) -> float:
    """Requests per second of load 1.0: the highest at which 99 % can be served in deadline.

    One program with the rate as a variable finds what a bisection over programs would.
    """
    rate = _Program(world, typical(world), _mean_field(world)).most_offered()
    if rate <= 0.0:
        raise WorldError(f"{world.name}: no rate can be served to {FULL:.0%} in deadline")
    return rate


def _mean_field(world: World) -> _Grant:
    return _Grant(1.0, 1.0, sum(world.serving.slow_share) / 2, math.inf)


def _solve(program: _Program, rate: float, attainment: float | None) -> Bound:
    served = program.most_served(rate)
    wanted = served if attainment is None else min(served, attainment * rate)
    result = program.cheapest(rate, wanted * (1.0 - SLACK))
    flows = np.zeros((len(program.mix.kinds), len(program.pools)))
    flows[program.k, program.j] = result.x[: len(program.k)]
    saved = np.maximum(0.0, -result.ineqlin.marginals[program.capacities]) * SECONDS_PER_HOUR
    groups = program.world.nodes
    duals = {
        f"{nodes.region}-{nodes.name}": Shadow(float(prefill), float(slots))
        for nodes, prefill, slots in zip(groups, saved[: len(groups)], saved[len(groups) :], strict=True)
    }
    cost = float(result.fun) / wanted * 1e3 if wanted > 0.0 else math.nan
    return Bound(min(1.0, served / rate), cost, duals, program.mix, program.pools, flows)


class _Program:
    """Columns: x of every feasible pair, then r of every pool. Rows: arrivals first, then what no rate changes."""

    def __init__(self, world: World, mix: Mix, grant: _Grant) -> None:
        self.world, self.mix, self.grant = world, mix, grant
        self.pools = tuple(
            Pool(nodes, world.profiles[name], group)
            for group, nodes in enumerate(world.nodes)
            for name in nodes.profiles
        )
        ways = {
            (gateway, region): world.round_trip(gateway, region).min_ms / 1e3
            for gateway in {kind.gateway for kind in mix.kinds}
            for region in {nodes.region for nodes in world.nodes}
        }
        pairs = [
            (k, j)
            for k, kind in enumerate(mix.kinds)
            for j, pool in enumerate(self.pools)
            if _fits(kind, pool.profile, ways[kind.gateway, pool.nodes.region], grant.luck)
        ]
        self.k, self.j = np.array(pairs, np.int64).reshape(-1, 2).T
        self.shares = np.array([kind.share for kind in mix.kinds])
        self.due = np.array([_due(kind) for kind in mix.kinds])
        self.group = np.array([pool.group for pool in self.pools])
        self.prefill = np.array([prefill(self.pools[j].profile, mix.kinds[k].prompt) for k, j in pairs])
        self.tokens = np.array([max(0.0, mix.kinds[k].output - 1.0) for k, _ in pairs])
        self.usd = np.array(
            [_usd(world, mix.kinds[k], self.pools[j], s) for (k, j), s in zip(pairs, self.prefill, strict=True)]
            + [_usd_per_second(pool) / pool.profile.slots for pool in self.pools]
        )
        self.served = np.concatenate((np.ones(len(pairs)), np.zeros(len(self.pools))))
        self._build()

    def _build(self) -> None:
        """Rows and right sides."""
        groups, pairs = len(self.world.nodes), len(self.k)
        every, running = np.arange(pairs), np.arange(len(self.pools)) + pairs
        drag = np.array([_drag(pool.profile, self.grant.company) for pool in self.pools])
        urgencies, accelerators, slots = self._capacities()
        blocks = [
            self._rows(self.k, every, np.ones(pairs), len(self.mix.kinds)),
            self._rows(np.append(self.group[self.j], self.group), np.append(every, running),
                       np.append(self.prefill, drag), groups),
            self._rows(self.group, running, np.ones(len(running)), groups),
        ]  # fmt: skip
        sides = [accelerators[-1], slots]
        for urgency, capacity in zip(urgencies[:-1], accelerators[:-1], strict=True):
            urgent = np.flatnonzero(self.due[self.k] <= urgency)
            blocks.append(self._rows(self.group[self.j[urgent]], urgent, self.prefill[urgent], groups))
            sides.append(capacity)
        for number in range(len(self.pools)):
            block, side = self._tangents(number)
            blocks.append(block)
            sides.append(side)
        self.capacities = slice(len(self.mix.kinds), len(self.mix.kinds) + 2 * groups)
        self.rows = vstack(blocks, format="csr")
        self.sides = np.concatenate(sides)

    def _rows(self, rows: Numbers, columns: Numbers, values: Floats, count: int) -> coo_array:
        return coo_array((values, (rows.astype(int), columns.astype(int))), shape=(count, len(self.usd)))

    def _capacities(self) -> tuple[list[float], list[Floats], Floats]:
        """Of each group: accelerator seconds per second for what is due within so long, and slots.

        A window with an end lets work be done after it: until its deadline, and all decoding that is under way.
        """
        grant, serving, nodes = self.grant, self.world.serving, self.world.nodes
        pace = 1.0 - grant.slow_share + grant.slow_share / serving.slow_factor
        count = np.array([each.count for each in nodes], np.float64)
        slots = count * [max(self.world.profiles[name].slots for name in each.profiles) for each in nodes]
        if math.isinf(grant.seconds):
            return [math.inf], [count * pace], slots
        urgencies = sorted(set(self.due.tolist()))
        longest = max(kind.output for kind in self.mix.kinds)
        under_way = max(longest * (p.decode_s + p.decode_batch_s * p.slots) for _, p, _ in self.pools)
        accelerators = [count * pace * (1.0 + urgency / grant.seconds) for urgency in urgencies]
        return urgencies, accelerators, slots * (1.0 + (urgencies[-1] + under_way) / grant.seconds)

    def _tangents(self, number: int) -> tuple[coo_array, Floats]:
        """r of a pool from below: r = tokens * (decode_s + decode_batch_s * (1 + company * r)), solved for r."""
        nodes, profile, _ = self.pools[number]
        alone = profile.decode_s + profile.decode_batch_s
        batch = profile.decode_batch_s * self.grant.company
        if alone <= 0.0:
            return self._rows(np.empty(0), np.empty(0), np.empty(0), 0), np.empty(0)
        tokens = np.linspace(0.0, profile.slots / (alone + batch * profile.slots), TANGENTS)
        left = 1.0 - batch * tokens
        running, slope = tokens * alone / left, alone / left**2
        own = np.flatnonzero(self.j == number)
        values = np.concatenate((np.outer(slope, self.tokens[own]), np.full((TANGENTS, 1), -1.0)), axis=1)
        columns = np.tile(np.append(own, len(self.k) + number), TANGENTS)
        rows = np.repeat(np.arange(TANGENTS), len(own) + 1)
        return self._rows(rows, columns, values.ravel(), TANGENTS), nodes.count * (slope * tokens - running)

    # Solving.

    def most_served(self, rate: float) -> float:
        """Phase 1: requests per second that can be served in deadline."""
        return -float(self._run(-self.served, self.rows, np.append(rate * self.shares, self.sides)).fun)

    def cheapest(self, rate: float, served: float) -> OptimizeResult:
        """Phase 2: so many of them, for the least money."""
        rows = vstack((self.rows, -self.served[None, :]), format="csr")
        return self._run(self.usd, rows, np.concatenate((rate * self.shares, self.sides, [-served])))

    def most_offered(self) -> float:
        """The rate of which a share of FULL can just be served: one more column."""
        rate = np.concatenate((-self.shares, np.zeros(len(self.sides)), [FULL]))
        rows = hstack((vstack((self.rows, -self.served[None, :])), rate[:, None]), format="csr")
        sides = np.concatenate((np.zeros(len(self.shares)), self.sides, [0.0]))
        return -float(self._run(np.append(np.zeros(len(self.usd)), -1.0), rows, sides).fun)

    def _run(self, goal: Floats, rows: coo_array, sides: Floats) -> OptimizeResult:
        result = linprog(goal, A_ub=rows, b_ub=sides, method="highs")
        if result.status != 0:
            raise WorldError(f"{self.world.name}: the fluid program has no solution ({result.message})")
        return result


def _fits(kind: Kind, profile: Profile, way: float, luck: float) -> bool:
    """Whether the smallest request of a kind meets its deadlines on an idle node, by the shortest way."""
    asked = kind.asked
    if profile.model != asked.model or profile.quality < asked.min_quality:
        return False
    pace = (profile.decode_s + profile.decode_batch_s) * luck
    first = way + prefill(profile, kind.least_prompt) * luck
    total = first + max(0.0, kind.least_output - 1.0) * pace
    in_pace = asked.token_interval_s is None or pace <= asked.token_interval_s
    return in_pace and first <= _granted(asked.first_token_s) and total <= _granted(asked.total_s)


def _granted(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _due(kind: Kind) -> float:
    """Seconds after its arrival by which a kind's prefill must be over."""
    return min(_granted(kind.asked.first_token_s), _granted(kind.asked.total_s), PATIENT_S)


def prefill(profile: Profile, prompt: float) -> float:
    """Seconds on a node that has nothing else to do."""
    return profile.overhead_s + prompt / profile.prefill_tokens_per_s


def _drag(profile: Profile, company: float) -> float:
    """Accelerator time that each running request costs the prefills beside it, at least.

    At r running, prefills take 1 + a r as long, so at most 1 / (1 + a r) of their time alone fits into a second. That
    is not concave; the straight line between no company and full slots lies above it.
    """
    return (1.0 - 1.0 / (1.0 + profile.interference * company)) / profile.slots


def _usd_per_second(pool: Pool) -> float:
    return pool.nodes.usd_per_hour / SECONDS_PER_HOUR if pool.nodes.cost is CostMode.MARGINAL else 0.0


def _usd(world: World, kind: Kind, pool: Pool, prefill_s: float) -> float:
    """What a request costs, its decoding aside (that is billed by the slot and second, as part of r)."""
    nodes = pool.nodes
    usd = prefill_s * _usd_per_second(pool)
    if nodes.cost is CostMode.TOKEN:
        usd += (nodes.input_usd_per_mtok * kind.prompt + nodes.output_usd_per_mtok * kind.output) / TOKENS_PER_MTOK
    return usd + kind.reply_bytes * world.regions[nodes.region].egress_usd_per_gb / BYTES_PER_GB
