"""How a node is picked: one synchronous method, the same arguments for every balancer.

A balancer sees the candidates of one request and returns a slot, or None when it finds nobody in time; it has no
clock, and its only chance is the `rng` it is given. Membership, accounting and what happens on None are the
router's.
"""

from __future__ import annotations

import random
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policies.candidates import Candidates
from policies.columns import Floats
from policies.masks import Mask

Slots = npt.NDArray[np.intp]


class Balancer(Protocol):
    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        """A slot among the candidates, or None."""
        ...


def two_of(mask: Mask, rng: random.Random) -> tuple[int, int] | None:
    """Two distinct random slots of a mask (the same one twice if there is only one)."""
    slots = mask.nonzero()[0]
    count = len(slots)
    if count < 2:
        return (slots.item(0), slots.item(0)) if count else None
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    return slots.item(first), slots.item(second + (second >= first))


def better_of_two(mask: Mask, score: Floats, rng: random.Random) -> int | None:
    """The lower score of two random slots: nearly as good as the best of all, and stale data herds nobody.

    Mitzenmacher, "The power of two choices in randomized load balancing" (2001).
    """
    pair = two_of(mask, rng)
    if pair is None:
        return None
    first, second = pair
    return first if score[first] <= score[second] else second


def lowest(mask: Mask, score: Floats, rng: random.Random) -> int | None:
    """A slot with the lowest score; ties are broken at random, so that equals share."""
    slots = mask.nonzero()[0]
    if len(slots) == 0:
        return None
    scores = score[slots]
    best = slots[scores == scores.min()]
    return int(best[int(rng.random() * len(best))]) if len(best) > 1 else int(best[0])
