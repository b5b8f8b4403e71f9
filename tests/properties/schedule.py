"""A random schedule of failures over the pure core, in virtual time, and the checker of what must hold in any.

A schedule is drawn from its seed alone: a small world, a dozen requests, up to four faults, clients that leave. The
checker stands between gateways and routers, and behind the ledger: it sees what a client sees, what a router is told
and what workers do, and keeps the invariants of `Checker`. The switches of `Guards` turn single guards of the core
off: then its checker must turn red, or it proves nothing.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

import msgspec

from loadtests.simulator import runs
from loadtests.simulator.call import Call, Job
from loadtests.simulator.contender import DEFAULT, POLICY, Setting
from loadtests.simulator.edge import Edge
from loadtests.simulator.ledger import Ledger
from loadtests.simulator.queueing import Queueing
from loadtests.simulator.world import (
    Control,
    Fault,
    FaultKind,
    Nodes,
    Place,
    Profile,
    Queue,
    RoundTrip,
    Serving,
    Wan,
    World,
)  # fmt: skip
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned, Surface
from policies.admission import AdmissionConfig
from policies.balancers.cheapest_in_deadline import CheapestInDeadline
from policies.fleet import Fleet
from policies.health import HealthConfig, State
from policies.hedge import HedgeConfig
from policies.request import Dispatch, Hold, Infeasible, LoadSeen
from policies.retry import RetryBudget, RetryConfig
from policies.router import Policy, Router

REGIONS = ("a", "b", "c")
PLACES = {name: Place(latitude=0, longitude=0) for name in REGIONS}
TRIPS = tuple(
    RoundTrip(between=(one, other), min_ms=1 if one == other else 40, avg_ms=2 if one == other else 60, mdev_ms=10)
    for place, one in enumerate(REGIONS)
    for other in REGIONS[place:]
)
PROFILE = Profile(accelerator="x", prefill_tokens_per_s=5000, overhead_s=0.01, decode_s=0.002, slots=4)
CLASSES = (
    Class(name="tight", total_s=0.5),
    Class(name="loose", total_s=1.5, surface=Surface.CHAT),
    Class(name="first", first_token_s=0.4, total_s=4.0),
)
DEMAND = Demand(classes=CLASSES, sizes=Ranges(prompt_tokens=(10, 1000), output_tokens=(1, 100)))
RETRIES = RetryConfig(min_in_flight=0, share=0.5)
"""A budget that a dozen requests can exhaust."""
MOST_ATTEMPTS = 3
CAP = HealthConfig().max_ejected_share
ARRIVE_S, DRAIN_S = 2.0, 4.0
REQUESTS = 12
LEAVING = 0.15


class Guards(msgspec.Struct, frozen=True):
    """Which of the core's guards are on."""

    settled_once: bool = True
    """What comes of an attempt that is settled already is not heard."""
    few_attempts: bool = True
    other_nodes: bool = True
    first_byte_commits: bool = True
    late_work_is_dropped: bool = True
    answers_are_kept_apart: bool = True
    ejections_are_capped: bool = True
    old_loads_are_ignored: bool = True
    retries_are_budgeted: bool = True


ALL = Guards()


class Checker:
    """Broken invariants of faults.md section 5, by number.

    I1 one ending per request · I2 no answer after an error · I4 at most three attempts, on different workers, none
    after the first byte · I5 no work is started after the deadline · I6 every attempt is settled and charged once · I7
    an answer is its own request's · I8 not more ejections than the cap · I9 loads and records never go backwards · I10
    no budget below zero: of retries, or of time
    """

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        """How often what happened: endings by reason, and what else a schedule should meet now and then."""
        self._endings: dict[int, list[str]] = defaultdict(list)
        self._begun: set[int] = set()
        self._dispatched: dict[int, list[str]] = defaultdict(list)
        self._charged: set[int] = set()
        self.jobs: list[Job] = []

    def wrong(self, invariant: str, what: str) -> None:
        self.broken.setdefault(invariant, what)

    # What the client sees.

    def begin(self, call: Call) -> None:
        if self._endings[call.number]:
            self.wrong("I2", f"{call!r}: a first token after its ending")
        self._begun.add(call.number)

    def end(self, call: Call) -> None:
        endings = self._endings[call.number]
        if endings:
            self.wrong("I1", f"{call!r}: a second ending")
            if endings[0] != "answer" and call.reason is None:
                self.wrong("I2", f"{call!r}: an answer after {endings[0]}")
        endings.append("answer" if call.reason is None else call.reason.label)
        self.seen[endings[-1]] += 1

    def answered(self, job: Job) -> None:
        if job.dispatch.request.id != str(job.call.number) or job.dispatch.request.tenant != job.call.tenant:
            self.wrong("I7", f"{job!r}: the answer of {job.dispatch.request.id}")

    # What routers decide, and are told.

    def dispatched(self, request_id: str, dispatch: Dispatch, now: float) -> None:
        number = int(request_id)
        tried = self._dispatched[number]
        worker = dispatch.node.worker.id
        if number in self._begun:
            self.wrong("I4", f"request {number}: sent again after its first byte")
        if worker in tried:
            self.wrong("I4", f"request {number}: sent to {worker} twice")
        tried.append(worker)
        self.seen[f"attempt {len(tried)}"] += 1
        if len(tried) > MOST_ATTEMPTS:
            self.wrong("I4", f"request {number}: {len(tried)} attempts")
        if len(tried) > 1 and now >= dispatch.request.deadline:
            self.wrong("I10", f"request {number}: sent again when its time was up")
        self.seen["hedge"] += dispatch.hedge

    # What workers do.

    def started(self, job: Job, now: float) -> None:
        if now > job.call.deadline:
            self.wrong("I5", f"{job!r}: begun {now - job.call.deadline:.3f} s after its deadline")

    def charged(self, job: Job) -> None:
        if id(job) in self._charged:
            self.wrong("I6", f"{job!r}: charged twice")
        self._charged.add(id(job))
        self.jobs.append(job)  # kept, so that no other object gets its identity

    # Afterwards.

    def over(self, simulation: runs.Simulation, routers: list[Watched]) -> None:
        for planned in simulation.plan:
            if len(self._endings[planned.number]) != 1:
                self.wrong("I1", f"request {planned.number}: {len(self._endings[planned.number])} endings")
        for router in routers:
            if router.open:
                self.wrong("I6", f"{router!r}: {router.open} attempts never settled")
        for edge in simulation.edges:
            if len(edge.contender.waiting) or edge._held:
                self.wrong("I6", f"{edge!r}: {edge.contender.waiting!r} when all is over")
        for worker in simulation.workers.values():
            if worker.running or worker.waiting:
                self.wrong("I6", f"{worker!r} is not idle")


class Watched(Router):
    """The product's router, with somebody who looks."""

    when_infeasible = DEFAULT

    def __init__(self, checker: Checker, guards: Guards, rng: random.Random, hedge: HedgeConfig | None = None) -> None:
        health = HealthConfig() if guards.ejections_are_capped else HealthConfig(max_ejected_share=1.0)
        fleet = Fleet(rng, health) if guards.old_loads_are_ignored else Gullible(rng, health)
        retries = RETRIES if guards.few_attempts else msgspec.structs.replace(RETRIES, max_extra=4)
        self._policy = Policy(CheapestInDeadline(), AdmissionConfig(), retries, hedge)
        if not guards.retries_are_budgeted:
            self._policy.budget = Spendthrift(retries)
        self._policy.budget._balance = 1.0
        super().__init__(fleet, {POLICY: self._policy}, rng)
        self._checker, self._guards = checker, guards
        self._told: set[int] = set()
        self._kept: list[Dispatch] = []
        self._out: set[str] = set()
        self._seen: dict[str, tuple[Any, int, str, int]] = {}

    def probes(self) -> tuple[str, ...]:
        return ()

    def route(self, request, now, avoid=(), beside=None):
        asked = avoid if self._guards.other_nodes else [f"not {name}" for name in avoid]
        decision = super().route(request, now, asked, beside)
        if isinstance(decision, Hold):
            self._checker.seen["hold"] += 1
        if isinstance(decision, Dispatch):
            self._checker.dispatched(request.id, decision, now)
        self._look()
        return decision

    def report(self, dispatch, outcome, now):
        if id(dispatch) in self._told:
            self._checker.wrong("I6", f"request {dispatch.request.id}: an attempt was settled twice")
            return
        self._told.add(id(dispatch))
        self._kept.append(dispatch)
        super().report(dispatch, outcome, now)
        self._look()

    def observe(self, change, now):
        super().observe(change, now)
        if isinstance(change, LoadSeen):
            self._sequence(change.load.worker)
        self._look()

    def _look(self) -> None:
        budget = self._policy.budget
        if budget._balance < 0.0 or budget._tokens < 0.0 or budget._in_flight < 0 or self._policy.in_flight < 0:
            self._checker.wrong("I10", f"{budget!r}")
        workers = self.fleet.workers
        out = {name for name, state in workers.items() if state.health.state is State.EJECTED}
        if out - self._out:
            self._checker.seen["ejection"] += 1
            cap = max(1, int(CAP * len(workers)))
            if len(out) > cap or all(state.health.state is not State.SERVING for state in workers.values()):
                self._checker.wrong("I8", f"{len(out)} of {len(workers)} ejected")
        self._out = out

    def _sequence(self, name: str) -> None:
        state = self.fleet.workers.get(name)
        if state is None or state.load is None:
            return
        before = self._seen.get(name)
        if before is not None and before[0] is state:
            _, written, boot, seq = before
            if state.record.seq < written or (state.load.boot == boot and state.load.seq < seq):
                self._checker.wrong("I9", f"{name}: load {state.load.seq} after {seq}")
        self._seen[name] = (state, state.record.seq, state.load.boot, state.load.seq)


class Spendthrift(RetryBudget):
    """Grants every repeat."""

    def take(self) -> bool:
        self._balance -= 1.0
        self._in_flight += 1
        return True


class Gullible(Fleet):
    """Believes whatever came last."""

    def apply(self, change, now):
        state = self.workers.get(change.load.worker) if isinstance(change, LoadSeen) else None
        if state is not None and change.load.boot == state.record.boot:
            state.load = None
        super().apply(change, now)


class Noted(Ledger):
    """The ledger, with somebody who looks."""

    checker: Checker

    def begin(self, call: Call, now: float) -> None:
        self.checker.begin(call)
        super().begin(call, now)

    def close(self, call: Call) -> None:
        self.checker.end(call)
        if not call.closed:
            super().close(call)


class Overheard(Edge):
    """An edge whose guards can be off."""

    checker: Checker
    guards: Guards

    def began(self, job: Job) -> None:
        if job.settled and not self.guards.settled_once:
            job.settled = False
        super().began(job)
        if not self.guards.first_byte_commits:
            job.first_byte = None

    def done(self, job: Job) -> None:
        if not self.guards.settled_once:
            job.settled = False
        if not job.settled:
            if not self.guards.answers_are_kept_apart:
                self._mix_up(job)
            self.checker.answered(job)
        super().done(job)

    def _mix_up(self, job: Job) -> None:
        for call in self.ledger.calls:
            other = call.job
            if other is not None and other is not job and not other.settled and not call.closed and call.first is None:
                job.call, other.call = other.call, job.call
                return


class Labourer(Queueing):
    """A worker, with somebody who looks."""

    checker: Checker

    def _begin(self) -> None:
        before = self._prefilling
        super()._begin()
        if self._prefilling is not None and self._prefilling is not before:
            self.checker.started(self._prefilling, self.timeline.now)

    def charge(self, job: Job, prefill: float, decode: float, accelerator: float) -> None:
        self.checker.charged(job)
        super().charge(job, prefill, decode, accelerator)


def draw(rng: random.Random, guards: Guards) -> tuple[World, list[Planned]]:
    """A small world with faults, and what is asked of it."""
    nodes = tuple(
        Nodes(name=f"n{number}", region=rng.choice(REGIONS), profiles=("p",), usd_per_hour=rng.choice((1.0, 1.02, 3.0)))
        for number in range(rng.randint(3, 5))
    )
    faults = tuple(_fault(rng, [f"{group.region}-{group.name}-0" for group in nodes]) for _ in range(rng.randint(1, 4)))
    world = World(
        name="schedule", regions=PLACES, round_trips=TRIPS, wan=Wan(spike_share=0.1, spike_factor=15.0),
        profiles={"p": PROFILE}, nodes=nodes, gateways=("a", "b")[: rng.randint(1, 2)],
        serving=Serving(
            queue=Queue.EDF if guards.late_work_is_dropped else Queue.FIFO, max_queue=rng.choice((2, 100)), noise=0.3
        ),
        control=Control(heartbeat_s=0.5, lease_s=1.5, probe_s=0.5, loss=rng.choice((0.0, 0.2))),
        demand=DEMAND, faults=faults, full_rate=1.0, seconds=ARRIVE_S, warm_up=0.0,
    )  # fmt: skip
    times = sorted(rng.uniform(0.1, ARRIVE_S) for _ in range(REQUESTS))
    plan = [
        Planned(
            number, at, rng.choice(CLASSES), rng.randint(10, 1500), rng.randint(1, 150), 1, 0,
            world.gateways[rng.randrange(len(world.gateways))], tenant=f"t{number % 3}",
        )
        for number, at in enumerate(times)
    ]  # fmt: skip
    return world, plan


def _fault(rng: random.Random, workers: list[str]) -> Fault:
    kind = rng.choice(list(FaultKind))
    if kind is FaultKind.RESTART:
        target: tuple[str, ...] = ("a",)
    elif kind in (FaultKind.PARTITION, FaultKind.REGISTRY):
        target = (rng.choice(REGIONS),)
    else:
        target = tuple(rng.sample(workers, rng.randint(1, 3)))
    return Fault(
        kind=kind, at=rng.uniform(0.0, ARRIVE_S), lasts=rng.choice((0.2, 1.0, 9.0)), target=target,
        factor=rng.choice((0.1, 3.0, 30.0)),
    )  # fmt: skip


HEDGES = HedgeConfig(share=1.0, worth=1e6)
"""All that may be sent."""


def check(
    seed: int, monkeypatch: Any, guards: Guards = ALL, hedge: HedgeConfig | None = None,
    when_infeasible: tuple[Infeasible, ...] = DEFAULT,
) -> Checker:  # fmt: skip
    """Run one schedule under the eyes of a checker."""
    rng = random.Random(seed)
    checker, routers = Checker(), []

    def make(setting: Setting) -> Watched:
        routers.append(Watched(checker, guards, setting.rng, hedge))
        routers[-1].when_infeasible = when_infeasible
        return routers[-1]

    for name, kind in (("Ledger", Noted), ("Edge", Overheard)):
        monkeypatch.setattr(runs, name, type(name, (kind,), {"checker": checker, "guards": guards}))
    monkeypatch.setitem(runs.KINDS, runs.Fidelity.QUEUEING, type("W", (Labourer,), {"checker": checker}))
    world, plan = draw(rng, guards)
    simulation = runs.Simulation(world, make, seed, plan)
    for planned in plan:
        if rng.random() < LEAVING:
            simulation.timeline.at(planned.at + rng.expovariate(4.0), _leave, (simulation, planned.number))
    simulation.run(DRAIN_S)
    checker.over(simulation, routers)
    return checker


def _leave(message: tuple[runs.Simulation, int]) -> None:
    """The client goes, if it is still there."""
    simulation, number = message
    for call in simulation.ledger.calls:
        if call.number == number and not call.closed:
            call.edge.hang_up(call)
