"""What decides in a simulated gateway: the shipped Router, or a baseline with the same verbs.

A baseline is a small balancer (`policies.balancers.Balancer`) inside the product's own Router, so that membership,
accounting, health and retries are the same for all; `Watching` adds what a stateful one wants to hear.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from loadtests.simulator.world import World
from policies.admission import AdmissionConfig
from policies.candidates import Candidates
from policies.fleet import Fleet
from policies.probing import ProbeBudget
from policies.request import Change, Dispatch, Hold, Infeasible, Outcome, Request, Shed
from policies.retry import RetryConfig
from policies.router import Policy, Router
from policies.waiting import Waiting

POLICY = "simulated"
"""The one policy every simulated request names."""
DEFAULT: tuple[Infeasible, ...] = (Infeasible.DEGRADE, Infeasible.BEST_EFFORT)
"""What the product's routes do when nobody can make it, unless told otherwise."""


class Contender(Protocol):
    """The product's verbs, and which workers to ask for their load at once."""

    fleet: Fleet
    waiting: Waiting
    """Those it holds."""
    when_infeasible: tuple[Infeasible, ...]
    """What its gateway's requests ask for when nobody can make it."""

    def observe(self, change: Change, now: float) -> None: ...

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed: ...

    def report(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None: ...

    def tick(self, now: float) -> None: ...

    def probes(self) -> Sequence[str]:
        """Ids of workers to probe now; asked once after each `route`. The answers come back as `LoadSeen`."""
        ...


class Setting(NamedTuple):
    """What a contender is made from."""

    world: World
    gateway: str
    """Its region."""
    gateways: int
    """How many decide at once."""
    rng: random.Random
    truth: Any
    """The simulation itself (runs.Simulation): only clairvoyants may look."""


class Watching:
    """A balancer that hears what becomes of its picks. All hooks are optional."""

    now = 0.0
    """When `pick` is asked: set before each decision."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        raise NotImplementedError

    def observed(self, change: Change, now: float) -> None:
        """A change the router has just taken."""

    def sent(self, dispatch: Dispatch, now: float) -> None:
        """A pick became a dispatch."""

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        """A dispatch ended."""

    def probes(self) -> Sequence[str]:
        """Workers to ask for their load, after a decision."""
        return ()


class Baseline(Router):
    """The product's router around a balancer that watches."""

    when_infeasible = DEFAULT

    def __init__(self, balancer: Watching, fleet: Fleet, rng: random.Random) -> None:
        plain = Policy(balancer, AdmissionConfig(fair=False, yielding=False), RetryConfig())
        super().__init__(fleet, {POLICY: plain}, rng)
        self.balancer = balancer

    def observe(self, change: Change, now: float) -> None:
        super().observe(change, now)
        self.balancer.observed(change, now)

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        self.balancer.now = now
        decision = super().route(request, now, avoid, beside)
        if isinstance(decision, Dispatch):
            self.balancer.sent(decision, now)
        return decision

    def report(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        super().report(dispatch, outcome, now)
        self.balancer.settled(dispatch, outcome, now)

    def probes(self) -> Sequence[str]:
        return self.balancer.probes()


class Shipped(Router):
    """The product's router, unchanged, with the budget that the product's gateway keeps for its probes."""

    def __init__(
        self, fleet: Fleet, policies: Mapping[str, Policy], rng: random.Random,
        when_infeasible: tuple[Infeasible, ...] = DEFAULT,
    ) -> None:  # fmt: skip
        super().__init__(fleet, policies, rng)
        self.when_infeasible = when_infeasible
        self._budget = ProbeBudget()
        self._wanted: tuple[str, ...] = ()
        """What the last dispatch names, as far as the budget goes."""

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        decision = super().route(request, now, avoid, beside)
        named = decision.probes if isinstance(decision, Dispatch) else ()
        self._wanted = tuple([worker_id for worker_id in named if self._budget.take(worker_id, now)]) if named else ()
        return decision

    def probes(self) -> Sequence[str]:
        return self._wanted
