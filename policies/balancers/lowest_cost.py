"""Lowest cost: the node this request is cheapest on, deadline or not."""

from __future__ import annotations

import random

from policies.balancers import lowest
from policies.candidates import Candidates


class LowestCost:
    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, candidates.cost, rng)
