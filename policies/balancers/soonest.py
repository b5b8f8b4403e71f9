"""Soonest: the node predicted to answer first. What best effort means, and `provider.sort: latency`."""

from __future__ import annotations

import random

from policies.balancers import lowest
from policies.candidates import Candidates


class Soonest:
    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, candidates.total, rng)


class FastestTokens:
    """The node with the most output tokens a second: `provider.sort: throughput`."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, candidates.columns.output, rng)
