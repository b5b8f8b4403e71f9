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

from policies.columns import Candidates, Floats
from policies.masks import Mask

Slots = npt.NDArray[np.intp]


class Balancer(Protocol):
    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        """A slot among the candidates, or None."""
        ...


def two_of(mask: Mask, rng: random.Random) -> tuple[int, int] | None:
    """Two distinct random slots of a mask (the same one twice if there is only one)."""
    slots = mask.nonzero()[0]
    return pair(slots, rng) if len(slots) else None


def pair(slots: Slots, rng: random.Random) -> tuple[int, int]:
    """As `two_of`, of the slots that a mask would have."""
    count = len(slots)
    if count == 1:
        return slots.item(0), slots.item(0)
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    return slots.item(first), slots.item(second + (second >= first))


def lower_of_two(slots: Slots, score: Floats, rng: random.Random) -> int:
    """The lower score of two random slots: nearly as good as the best of all, and stale data herds nobody.

    Mitzenmacher, "The power of two choices in randomized load balancing" (2001).
    """
    first, second = pair(slots, rng)
    return first if score[first] <= score[second] else second


def better_of_two(mask: Mask, score: Floats, rng: random.Random) -> int | None:
    """As `lower_of_two`, of the slots of a mask."""
    slots = mask.nonzero()[0]
    return lower_of_two(slots, score, rng) if len(slots) else None


def lowest(mask: Mask, score: Floats, rng: random.Random) -> int | None:
    """A slot with the lowest score; ties are broken at random, so that equals share."""
    slots = mask.nonzero()[0]
    if len(slots) == 0:
        return None
    scores = score[slots]
    best = slots[scores == scores.min()]
    return int(best[int(rng.random() * len(best))]) if len(best) > 1 else int(best[0])
