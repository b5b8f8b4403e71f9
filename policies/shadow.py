"""A second policy on live traffic, with no effect: what it would have done, and how that compares.

A sampled request is put to both, over the same fleet and before either reserves; only the route's own policy is
followed. The shadow has its own chance and its own state, so that it moves nothing of the other's. A gateway without
shadows has a plain `Router` and pays nothing; whoever is configured for some has a `Shadowed` one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from policies.calibrate import Calibration
from policies.choice import Choice, crowded_out
from policies.fleet import Fleet
from policies.policy import Policy
from policies.request import Dispatch, Hold, Request, Shed, Status
from policies.router import Router

OWN, SHADOW = "policy", "shadow"
"""The two that are compared."""


class Pick(NamedTuple):
    """What one of them would do with a request: predictions, not outcomes."""

    node: str
    status: Status
    cost: float
    """US dollars."""
    chance: float
    """P(in time); 1 without a deadline."""


class Tally:
    """What one of them did with the requests that both were asked about."""

    __slots__ = ("chance", "cost", "promised", "refused")

    def __init__(self) -> None:
        self.promised = 0
        """Predicted in time, or without a deadline."""
        self.refused = 0
        self.cost = 0.0
        """US dollars predicted, of requests that both would send."""
        self.chance = 0.0
        """Sum of P(in time), of the same."""


class Shadow:
    """One route's second policy, and its comparison with the first."""

    def __init__(self, name: str, policy: Policy, fleet: Fleet, share: float, rng: random.Random) -> None:
        """`share` of the requests are put to it."""
        self.name = name
        self.share = share
        self.asked = self.agreed = self.both = 0
        """Requests put to both; with the same node for both; that both would send."""
        self.regret = 0.0
        """US dollars by which the route's own predictions are dearer, of requests that both promise in time."""
        self.tallies = {OWN: Tally(), SHADOW: Tally()}
        self.draw = rng.random
        self._policy = policy
        self._router = Router(fleet, {name: policy}, rng)

    def __repr__(self) -> str:
        return f"<Shadow {self.name}: {self.agreed} of {self.asked} alike, regret ${self.regret:.3g}>"

    def consider(self, request: Request, now: float) -> Choice | Hold | Shed:
        """What it would do; nothing is reserved."""
        return self._router.foresee(replace(request, policy=self.name), now)

    def pick(self, request: Request, now: float) -> Pick | None:
        """Likewise, as figures; None where it would hold or refuse."""
        choice = self._router.consider(replace(request, policy=self.name), now)
        if not request.patient:  # its own sense of overload, by the requests it is asked about
            self._policy.overload.routed(crowded_out(choice, now))
        choice = self._router.yielded(self._policy, choice, now)
        if not isinstance(choice, Choice):
            return None
        node, cost = choice.node, choice.candidates.cost.item(choice.slot)
        chance = self._router.fleet.calibration.chance(request, node.eta(request, now), now)
        return Pick(node.id, choice.status, cost, chance)

    def compare(self, own: Pick | None, other: Pick | None) -> None:
        """Count what both would do with one request."""
        self.asked += 1
        for who, pick in ((OWN, own), (SHADOW, other)):
            self.tallies[who].refused += pick is None
            self.tallies[who].promised += pick is not None and pick.status is not Status.BEST_EFFORT
        if own is None or other is None:
            self.agreed += own is other
            return
        self.agreed += own.node == other.node
        self.both += 1
        for who, pick in ((OWN, own), (SHADOW, other)):
            self.tallies[who].cost += pick.cost
            self.tallies[who].chance += pick.chance
        if Status.BEST_EFFORT not in (own.status, other.status):
            self.regret += own.cost - other.cost

    def adopt(self, earlier: Shadow) -> None:
        """Count on from an earlier configuration's figures."""
        self.asked, self.agreed, self.both = earlier.asked, earlier.agreed, earlier.both
        self.regret, self.tallies = earlier.regret, earlier.tallies


class Shadowed(Router):
    """A router that puts a share of its requests to shadows as well."""

    def __init__(
        self,
        fleet: Fleet,
        policies: Mapping[str, Policy],
        rng: random.Random,
        shadow: Callable[[str], Shadow | None],
    ) -> None:
        """`shadow` is that of a model's route."""
        super().__init__(fleet, policies, rng)
        self._shadow = shadow

    def shadow(self, model: str) -> Shadow | None:
        return self._shadow(model)

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        shadow = None if avoid else self._shadow(request.model)
        if shadow is None or shadow.draw() >= shadow.share or self.waiting.holds(request):
            return super().route(request, now, avoid, beside)
        other = shadow.pick(request, now)  # before this one's own reservation
        decision = super().route(request, now)
        shadow.compare(_own(decision, self.fleet.calibration, now), other)
        return decision


def _own(decision: Dispatch | Hold | Shed, calibration: Calibration, now: float) -> Pick | None:
    if not isinstance(decision, Dispatch):
        return None
    chance = calibration.chance(decision.request, decision.eta, now)
    return Pick(decision.node.id, decision.status, decision.cost, chance)
