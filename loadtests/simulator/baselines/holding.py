"""The product's router around a baseline with a queue of its own: what may not go yet is held."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator

from loadtests.simulator.contender import Baseline, Watching
from policies.candidates import Candidates
from policies.fleet import Fleet
from policies.request import Dispatch, Hold, Request, Shed
from policies.waiting import Waiting


class Patient(Watching):
    """A balancer that would rather wait than send a request anywhere."""

    def until(self, candidates: Candidates) -> float | None:
        """When to ask again; None if somebody may have the request now."""
        raise NotImplementedError


class InOrder(Waiting):
    """Those held, first come first served: who may not go keeps all behind it."""

    __slots__ = ()

    def front(self) -> Iterator[Request]:
        for place in list(self._places.values()):
            yield place.request
            if self.holds(place.request):
                return


class Holding(Baseline):
    """Asks before each decision whether to decide at all."""

    balancer: Patient

    def __init__(self, balancer: Patient, fleet: Fleet, rng: random.Random) -> None:
        super().__init__(balancer, fleet, rng)
        self.waiting = InOrder()

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        columns = self.fleet.columns(request.model)
        if columns is not None and not avoid:
            eligible = columns.eligible(request, request.quality, avoid, self.fleet.health.panic_share)
            if eligible.any():
                self.balancer.now = now
                until = self.balancer.until(Candidates(columns, request, eligible, now))
                if until is not None:
                    self.waiting.join(request, until, now)
                    return Hold(until)
        return super().route(request, now, avoid, beside)
