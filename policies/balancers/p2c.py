"""Power of two choices: of two random nodes, the one with fewer requests outstanding."""

from __future__ import annotations

import random

from policies.balancers import better_of_two
from policies.candidates import Candidates


class P2C:
    """Mitzenmacher (2001); blind to price, distance and deadline."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return better_of_two(candidates.eligible, candidates.columns.outstanding, rng)
