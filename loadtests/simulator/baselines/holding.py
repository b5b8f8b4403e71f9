"""The product's router around a baseline with a queue of its own: what may not go yet is held."""

from __future__ import annotations

from collections.abc import Collection

from loadtests.simulator.contender import Baseline, Watching
from policies.columns import Candidates
from policies.request import Dispatch, Hold, Request, Shed


class Patient(Watching):
    """A balancer that would rather wait than send a request anywhere."""

    def until(self, candidates: Candidates) -> float | None:
        """When to ask again; None if somebody may have the request now."""
        raise NotImplementedError


class Holding(Baseline):
    """Asks before each decision whether to decide at all. Held requests are the edge's, in the order they came."""

    balancer: Patient

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        columns = self.fleet.columns(request.model)
        if columns is not None and not avoid:
            eligible = columns.eligible(request, request.quality, avoid, self.fleet.health.panic_share)
            if eligible.any():
                self.balancer.now = now
                until = self.balancer.until(columns.candidates(request, eligible, now))
                if until is not None:
                    return Hold(until)
        return super().route(request, now, avoid, beside)
