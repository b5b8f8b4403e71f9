"""Peak EWMA with two choices, as in Finagle, Linkerd and tower."""

from __future__ import annotations

import math
import random

from loadtests.simulator.contender import Watching
from policies.balancers import two_of
from policies.candidates import Candidates
from policies.request import Dispatch, Outcome
from policies.worker import WorkerState

DECAY_S = 10.0
"""Finagle's `decayTime`."""
PENALTY = 1e9
"""For a node that was sent something and has never answered: Finagle's is half the largest number."""


class PeakEwma(Watching):
    """Of two random nodes the one with the lower latency times requests in flight, latency being remembered at its
    peak and forgotten over ten seconds.

    Finagle, `loadbalancer/PeakEwma.scala` and `p2c/P2CPick.scala`: a sample above the average replaces it, one below
    is averaged in by its age, and merely looking lets it decay; load is cost * (pending + 1), or a penalty where there
    is no history yet. Latency is until the first token of a stream, as tower's and Linkerd's version has it; Finagle's
    own, of the whole exchange, attains 2 points less.
    """

    def __init__(self) -> None:
        self._costs: dict[str, list[float]] = {}
        """By worker: average, and when it was brought up to date."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        pair = two_of(candidates.eligible, rng)
        if pair is None:
            return None
        nodes = candidates.columns.nodes
        first, second = (self._load(nodes[slot].state) for slot in pair)
        return pair[0] if first <= second else pair[1]

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        whole = now - dispatch.at
        seconds = whole if outcome.first_byte is None or not dispatch.request.stream else outcome.first_byte
        self._observe(dispatch.node.worker.id, seconds, now)

    def _load(self, state: WorkerState) -> float:
        cost = self._observe(state.record.id, 0.0, self.now)
        if cost == 0.0 and state.in_flight:
            return PENALTY + state.in_flight
        return cost * (state.in_flight + 1)

    def _observe(self, worker_id: str, seconds: float, now: float) -> float:
        entry = self._costs.get(worker_id)
        if entry is None:
            entry = self._costs[worker_id] = [0.0, now]
        cost, at = entry
        if seconds <= cost:
            kept = math.exp((at - now) / DECAY_S)
            seconds = cost * kept + seconds * (1.0 - kept)
        entry[:] = seconds, now
        return seconds
