"""Least loaded: the node with the fewest requests outstanding, as reported and corrected by what we sent since."""

from __future__ import annotations

import random

from policies.balancers import lowest
from policies.candidates import Candidates


class LeastLoaded:
    """Good with fresh data, herds with stale data (Mitzenmacher, "How useful is old information", 2000)."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, candidates.columns.outstanding, rng)
