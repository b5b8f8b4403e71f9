"""Runs: one simulation each, a pure function of (world, policy, seed), and many of them over processes.

Chance comes in streams: arrivals, sizes and noise belong to the seed alone, so that policies are compared on the same
requests in the same weather; delays and each gateway's own draws follow from what it does.
"""

from __future__ import annotations

import functools
import gc
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from loadtests.simulator import contenders, faults, fluid
from loadtests.simulator.batching import Batching
from loadtests.simulator.contender import Contender, Setting
from loadtests.simulator.definitions import Case
from loadtests.simulator.edge import Edge
from loadtests.simulator.kept import Kept
from loadtests.simulator.ledger import Ledger
from loadtests.simulator.machine import Herd
from loadtests.simulator.queueing import Queueing
from loadtests.simulator.registry import Membership, Registry
from loadtests.simulator.result import Run, Value
from loadtests.simulator.serving import Worker
from loadtests.simulator.spread import spread
from loadtests.simulator.timeline import Timeline
from loadtests.simulator.wan import Network
from loadtests.simulator.world import Control, Fidelity, Queue, World, WorldError
from loadtests.workload import Class, Planned

Make = Callable[[Setting], Contender]

TICK_S = 0.05
"""How often a gateway's router is given its maintenance (policies/router.py)."""
DRAIN_S = 120.0
"""How long after the last arrival what is open may still be answered; then it is cut off, missed and billed."""
SAMPLES = 80
"""Points of the queues over time."""
NOISE_STREAM = 1
"""Beside the seed: the demand uses the bare one."""
KINDS: dict[Fidelity, type[Worker]] = {Fidelity.QUEUEING: Queueing, Fidelity.BATCHING: Batching}


class Simulation:
    """One world under one policy, from its first second to its last. Also the truth, for those who may look."""

    def __init__(self, world: World, make: Make, seed: int, plan: Sequence[Planned]) -> None:
        self.world = world
        self.timeline = timeline = Timeline()
        self.plan = plan
        self._make = make
        self._seed = seed
        self._next = 0
        self.network = Network(world, self.chance("ways"))
        self.ledger = Ledger(world, self._noise(), self._emptied)
        self.workers: dict[str, Worker] = {worker.id: worker for worker in self._build_workers()}
        for worker in self.workers.values():
            worker.mean_output = _mean([planned.output_tokens for planned in plan])
        self.edges = self._build_edges()
        self.origins = self._assign_origins()
        control = world.control
        memberships = [
            Membership(edge, control, self.chance("probes", edge.number), lambda: self.quiet) for edge in self.edges
        ]
        self.registry = Registry(
            timeline, control, list(self.workers.values()), memberships, self.chance("registry"), lambda: self.quiet
        )  # fmt: skip
        faults.arrange(self)

    def __repr__(self) -> str:
        return f"<Simulation of {self.world.name} at {self.now:.3f} s, {self.ledger.open_calls} open>"

    def chance(self, *names: object) -> random.Random:
        """A stream of chance of its own."""
        return random.Random(f"{self._seed} {' '.join(map(str, names))}")

    @property
    def quiet(self) -> bool:
        """Whether nothing is left to decide: all have come, and whoever is open hears the answer already. What happens
        between gateways and workers beside that makes no difference any more, and ends."""
        return self._next == len(self.plan) and not self.ledger.unbegun

    # The truth.

    @property
    def now(self) -> float:
        return self.timeline.now

    def one_way(self, gateway: str, region: str) -> float:
        """Mean seconds of a leg between two regions."""
        return self.network.way(gateway, region).mean

    # Building.

    def _noise(self) -> list[float]:
        sigma = self.world.serving.noise
        rng = np.random.default_rng([self._seed, NOISE_STREAM])
        return np.exp(sigma * rng.standard_normal(len(self.plan)) - sigma * sigma / 2).tolist()

    def _build_workers(self) -> list[Worker]:
        world = self.world
        width = max(world.control.heartbeat_s, 1.0)
        workers = []
        for nodes in world.nodes:
            if nodes.region not in world.regions:
                raise WorldError(f"nodes {nodes.name!r}: no region {nodes.region!r}")
            profiles = [_profile(world, name, nodes.name) for name in nodes.profiles]
            for index in range(nodes.count):
                worker_id = f"{nodes.region}-{nodes.name}-{index}"
                herd = Herd(width, world.warm_up)
                worker = KINDS[world.serving.fidelity](
                    self.timeline, worker_id, nodes, profiles, world.regions[nodes.region], world.serving, herd,
                    self.chance("worker", worker_id),
                )  # fmt: skip
                worker.reports = world.control.on_responses
                workers.append(worker)
        if len({worker.id for worker in workers}) < len(workers):
            raise WorldError("nodes: two of one region have the same name")
        return workers

    def _build_edges(self) -> list[Edge]:
        world = self.world
        expected = self._expected_outputs()
        regions = sorted({worker.region for worker in self.workers.values()})
        edges: list[Edge] = []
        for number, region in enumerate(world.gateways):
            if region not in world.regions:
                raise WorldError(f"gateways: no region {region!r}")
            ways = {other: self.network.way(region, other) for other in regions}
            parts = self.timeline, number, region, self.contender(number), self.workers, ways, self.ledger
            edges.append(Edge(*parts, expected))
        return edges

    def contender(self, number: int) -> Contender:
        """A fresh one for a gateway, that knows nothing."""
        world = self.world
        chance = self.chance("gateway", number)
        return self._make(Setting(world, world.gateways[number], len(world.gateways), chance, self))

    def _expected_outputs(self) -> dict[Class, float]:
        """What a route expects of its answers: the mean of its class, never the request's own."""
        sizes: dict[Class, list[int]] = defaultdict(list)
        for planned in self.plan:
            sizes[planned.kind].append(planned.output_tokens)
        return {kind: _mean(outputs) for kind, outputs in sizes.items()}

    def _assign_origins(self) -> dict[str, itertools.cycle[Edge]]:
        """Whom clients of each region ask: the gateways there in turn, or the nearest ones."""
        origins = {}
        for origin in sorted({planned.origin for planned in self.plan}):
            here = [edge for edge in self.edges if edge.region == origin]
            if not here:
                if origin not in self.world.regions:
                    raise WorldError(f"demand: requests come from {origin!r}, which is no region")
                nearest = min(self.edges, key=lambda edge: (self.one_way(origin, edge.region), edge.number))
                here = [edge for edge in self.edges if edge.region == nearest.region]
            origins[origin] = itertools.cycle(here)
        return origins

    # Running.

    def run(self, drain: float = DRAIN_S) -> None:
        """From the first arrival to the last ending, which is cut off `drain` seconds after the last arrival."""
        world, timeline = self.world, self.timeline
        self.registry.begin()
        for edge in self.edges:
            timeline.at(edge.number * TICK_S / len(self.edges), self._tick, edge)
        timeline.at(0.0, self._sample)
        if self.plan:
            timeline.at(self.plan[0].at, self._arrive)
            timeline.run(max(world.seconds, self.plan[-1].at) + drain)
        self._cut_off()

    def _arrive(self, _: None) -> None:
        """The next request is there, at its gateway."""
        planned = self.plan[self._next]
        self._next += 1
        if self._next < len(self.plan):
            self.timeline.at(self.plan[self._next].at, self._arrive)
        next(self.origins[planned.origin]).arrive(planned)

    def _tick(self, edge: Edge) -> None:
        now = self.timeline.now
        edge.contender.tick(now)
        if not self.quiet:
            self.timeline.at(now + TICK_S, self._tick, edge)

    def _sample(self, _: None) -> None:
        now = self.timeline.now
        self.ledger.sample(now, self.workers.values())
        pause = self.world.seconds / SAMPLES
        if now + pause <= self.world.seconds:
            self.timeline.at(now + pause, self._sample)

    def _emptied(self) -> None:
        if self._next == len(self.plan):
            self.timeline.stop()

    def _cut_off(self) -> None:
        """What is still at work is billed for what was spent on it; whoever still waits has missed."""
        for worker in self.workers.values():
            for job in worker.jobs():
                worker.cancel(job)
        for call in self.ledger.calls:
            if call.ended is None:
                call.edge.hang_up(call)


def simulate(
    world: World, policy: str, seed: int, *, make: Make | None = None, plan: Sequence[Planned] | None = None,
    case: dict[str, Value] | None = None,
) -> Run:  # fmt: skip
    """One run. `make` stands for a policy that has no name, `plan` for the demand's own."""
    if make is None:
        make = functools.partial(contenders.make, policy)
    collecting = gc.isenabled()
    gc.disable()  # tens of thousands of calls live until the end, and nothing of them is garbage before
    try:
        return _simulated(world, policy, seed, make, planned(world, seed) if plan is None else plan, case or {})
    finally:
        if collecting:
            gc.enable()
        gc.collect()  # now all of it is, in cycles


def _simulated(
    world: World, policy: str, seed: int, make: Make, plan: Sequence[Planned], case: dict[str, Value]
) -> Run:
    began = time.process_time()
    simulation = Simulation(world, make, seed, plan)
    simulation.run()
    ledger, workers = simulation.ledger, list(simulation.workers.values())
    return Run(
        scenario=world.name, case=case, policy=policy, seed=seed, figures=ledger.figures(workers),
        detail=ledger.detail(workers, sum(edge.heard for edge in simulation.edges)),
        requests=len(ledger.calls), cpu_s=time.process_time() - began,
    )  # fmt: skip


def planned(world: World, seed: int) -> list[Planned]:
    """The requests of a run."""
    return world.demand.plan(full_rate(world) * world.load, world.seconds, world.origins(), seed)


def full_rate(world: World) -> float:
    """Requests per second of load 1.0."""
    return fluid.full_rate(world) if world.full_rate is None else world.full_rate


class Task(NamedTuple):
    """A run to be made."""

    world: World
    policy: str
    seed: int
    case: dict[str, Value]


def run_all(
    cases: Sequence[Case], policies: Sequence[str], seeds: Sequence[int], processes: int = 2,
    progress: Callable[[Run], None] | None = None, kept: Kept | None = None,
) -> list[Run]:  # fmt: skip
    """Every case under every policy with every seed, in this order, over processes. Raises WorldError.

    `progress` hears of each run as it ends. What `kept` has is not run again, and what it has not it gets.
    """
    tasks = [
        Task(world, policy, seed, label)
        for label, world in rated(cases)
        for seed in seeds
        for policy in policies
    ]  # fmt: skip
    found: dict[int, Run] = {}

    def note(number: int, run: Run, *, new: bool = True) -> None:
        found[number] = run
        if new and kept is not None:
            kept.add(tasks[number].world, run)
        if progress is not None:
            progress(run)

    for number, task in enumerate(tasks):
        old = kept.get(task.world, task.policy, task.seed) if kept is not None else None
        if old is not None:
            note(number, replace(old, case=task.case), new=False)
    left = [number for number in range(len(tasks)) if number not in found]
    for place, run in spread(_work, [tasks[number] for number in left], processes):
        note(left[place], run)
    return [found[number] for number in range(len(tasks))]


def _work(task: Task) -> Run:
    return simulate(task.world, task.policy, task.seed, case=task.case)


def rated(cases: Sequence[Case]) -> list[Case]:
    """The cases with the rate of load 1.0 filled in, once for worlds that differ only in what it does not depend on."""
    rates: dict[bytes, float] = {}
    result = []
    for label, world in cases:
        serving = replace(world.serving, queue=Queue.FIFO)
        plain = replace(world, name="", about="", load=1.0, control=Control(), faults=(), serving=serving)
        key = msgspec.json.encode(plain)
        if key not in rates:
            rates[key] = full_rate(world)
        result.append(Case(label, replace(world, full_rate=rates[key])))
    return result


def _profile(world: World, name: str, nodes: str) -> Any:
    profile = world.profiles.get(name)
    if profile is None:
        raise WorldError(f"nodes {nodes!r}: no profile {name!r}")
    return profile


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
