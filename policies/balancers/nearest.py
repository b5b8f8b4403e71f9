"""Nearest: the region with the shortest measured network time, and in it the better of two by outstanding requests."""

from __future__ import annotations

import random

from policies.balancers import better_of_two
from policies.candidates import Candidates

SAME_PLACE_SECONDS = 0.005
"""Nodes this close to the nearest count as equally near: the diameter of a metro region."""


class Nearest:
    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        columns = candidates.columns
        network = columns.network
        eligible = candidates.eligible
        if not eligible.any():
            return None
        limit = network[eligible].min() + SAME_PLACE_SECONDS
        return better_of_two(eligible & (network <= limit), columns.outstanding, rng)
