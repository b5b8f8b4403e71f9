"""llm-d's endpoint picker: load scorers added up, and predicted latency against the objective."""

from __future__ import annotations

import random

import numpy as np

from loadtests.simulator.baselines import Prefixes, by_slot, in_flight, waiting
from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.columns import Floats
from policies.masks import Mask
from policies.request import INFINITE, Dispatch
from policies.worker import WorkerState

QUEUE, KV, PREFIX = 2.0, 2.0, 3.0
"""Weights of llm-d's default profile."""
FIRST_TOKEN, PER_TOKEN = 0.8, 0.2
"""Weights of the two objectives (`ttftWeight`, `tpotWeight`)."""
EXPLORED = 0.01
"""`epsilonExploreNeg`: share of requests that try those predicted to be late."""


class Scorers(Watching):
    """The highest weighted sum of queue, KV and prefix scores.

    llm-d router (the Gateway API inference extension's endpoint picker), `scheduling/scorer/{queuedepth,
    kvcacheutilization, prefix}` with the max-score picker: queue is (max - q) / (max - min) of the reported waiting
    requests, KV one minus the reported use (of the slots, where a worker does not tell), prefix whether this gateway
    last sent the request's key there. Reports are as old as they are: nothing is added for what was sent since.
    """

    def __init__(self) -> None:
        self._prefixes = Prefixes()

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        eligible, columns = candidates.eligible, candidates.columns
        if not eligible.any():
            return None
        queue = by_slot(columns, waiting)
        low, high = queue[eligible].min(), queue[eligible].max()
        short = (high - queue) / (high - low) if high > low else np.ones_like(queue)
        score = QUEUE * short + KV * (1.0 - by_slot(columns, kv_use))
        key = candidates.request.affinity
        if key:
            score = score + PREFIX * by_slot(columns, lambda state: self._prefixes.known(state.record.id, key))
        return lowest(eligible, -score, rng)

    def sent(self, dispatch: Dispatch, now: float) -> None:
        key = dispatch.request.affinity
        if key:
            self._prefixes.remember(dispatch.node.worker.id, key)


def kv_use(state: WorkerState) -> float:
    load = state.load
    if load is None:
        return 0.0
    return load.kv_use or min(1.0, (load.running or 0) / state.slots)


class Headroom(Watching):
    """Of those predicted in time the one with the least time to spare; now and then one of the others.

    llm-d router, `scorer/latency` (strategy `least`, its default): headroom is the objective minus the prediction,
    for the first token and per token, each scaled to [0, 1] over the positive ones and weighted 0.8 to 0.2; one minus
    that is the weight of a random draw (`weighted-random-picker`), so that the least headroom is the likeliest. One
    request in a hundred goes to the negative tier: to an idle node there, else to the smallest deficit. Without an
    objective everybody is negative, and the soonest idle node wins. Predictions are the router's own, network and
    what was sent since the last report included, which is more than llm-d's sidecars know.
    """

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        eligible = candidates.eligible
        if not eligible.any():
            return None
        first, pace = headrooms(candidates, self.now)
        positive = eligible & (first >= 0.0) & (pace >= 0.0)
        negative = eligible & ~positive
        if positive.any() and not (negative.any() and rng.random() < EXPLORED):
            return self._tightest(positive, first, pace, rng)
        idle = negative & (by_slot(candidates.columns, in_flight) == 0.0)
        tier = idle if idle.any() else negative
        deficit = -(np.minimum(first, 0) * FIRST_TOKEN + np.minimum(pace, 0) * PER_TOKEN)
        return lowest(tier, deficit.astype(np.float32), rng)

    def _tightest(self, tier: Mask, first: Floats, pace: Floats, rng: random.Random) -> int:
        slots = tier.nonzero()[0]
        parts = [(scaled(first[slots]), FIRST_TOKEN), (scaled(pace[slots]), PER_TOKEN)]
        told = [(values, weight) for values, weight in parts if values is not None]
        if not told:
            return int(slots[int(rng.random() * len(slots))])
        whole = sum(weight for _, weight in told)
        weights = np.ones(len(slots))
        for values, weight in told:
            weights -= values * (weight / whole)
        return int(rng.choices(slots.tolist(), weights.tolist())[0])


def headrooms(candidates: Candidates, now: float) -> tuple[Floats, Floats]:
    """Seconds to spare: until the first token, and per further token."""
    request, columns = candidates.request, candidates.columns
    if request.first_token_deadline < INFINITE:
        first, _, _ = columns.evaluate(request, 0.0)
        spare = request.first_token_deadline - now - first
    else:
        spare = (0.0 if request.deadline == INFINITE else request.deadline - now) - candidates.total
    if request.token_interval < INFINITE:
        return spare, request.token_interval - columns.output
    return spare, np.zeros_like(spare)


def scaled(values: Floats) -> Floats | None:
    """To [0, 1]; None when they are all the same, and so say nothing."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else None
