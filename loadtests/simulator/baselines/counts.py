"""Fewest requests: of one's own, or of everybody's as the registry last told."""

from __future__ import annotations

import random

from loadtests.simulator.baselines import by_slot, in_flight
from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.worker import WorkerState


class LeastOutstanding(Watching):
    """The node with the fewest requests of this gateway in flight: `least_conn` (nginx, HAProxy, Envoy), never stale,
    and blind to what all others send."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, by_slot(candidates.columns, in_flight), rng)


class StaleJsq(Watching):
    """Join the shortest queue of the last heartbeats, corrected by nothing.

    Mitzenmacher, "How useful is old information?" (IEEE TPDS 2000): between two reports all join the same queue, so
    that it does worse than chance as soon as the reports are older than a few services.
    """

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, by_slot(candidates.columns, reported), rng)


def reported(state: WorkerState) -> float:
    """Requests waiting and running by the last report; one's own where there is none."""
    load = state.load
    if load is None or load.waiting is None:
        return state.in_flight
    return load.waiting + (load.running or 0)
