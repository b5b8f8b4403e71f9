"""RouteBalance-like: latency and cost scaled against each other, over what is feasible, by dead reckoning."""

from __future__ import annotations

import random

import numpy as np

from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.columns import Floats
from policies.masks import Mask

LATENCY = 0.05
COST = 0.95
"""Weights of the two, after scaling each to [0, 1] over the candidates. Tuned: 84 % in deadline, 82 with 0.2 to 0.8, 74
with even weights, since all gateways then want the same fast nodes."""


class RouteBalance(Watching):
    """The lowest weighted sum of predicted latency and cost among the nodes predicted in time; if there are none,
    among all.

    After AKafakA/route-balance: budget and objective filters, then a greedy weighted score per request, the state of
    every instance carried forward between two polls by what was sent to it (dead reckoning). That is how the product's
    columns come by their wait, so they are used as they are. The choice is the best of all, without sampling.
    """

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        tier = candidates.fit if candidates.fit.any() else candidates.eligible
        if not tier.any():
            return None
        score = LATENCY * scaled(candidates.total, tier) + COST * scaled(candidates.cost, tier)
        return lowest(tier, score, rng)


def scaled(values: Floats, tier: Mask) -> Floats:
    """To [0, 1] over a tier."""
    low, high = values[tier].min(), values[tier].max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
