"""The house policy: the cheapest tier with a node that meets the deadline; inside it, the better of two."""

from __future__ import annotations

import random
import zlib

from policies.balancers import lower_of_two
from policies.columns import Candidates

TIER = 1.05
"""A tier is what costs at most 5 % more than the cheapest feasible node: wide enough that equal nodes with slightly
different learned speeds share the load, narrow enough that the choice costs nothing worth mentioning."""


class CheapestInDeadline:
    """Among the nodes predicted in time, those within 5 % of the cheapest; of two of these at random, the sooner.

    A request with an affinity key goes to the same node of the tier each time, as long as that node is in it
    (rendezvous hashing, Thaler and Ravishankar 1998): feasibility and price come first, the warm prefix second.
    """

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = candidates.fit.nonzero()[0]
        if not len(slots):
            return None
        cost = candidates.cost[slots]
        slots = slots[cost <= cost[cost.argmin()] * TIER]
        if candidates.request.affinity:
            return affine(candidates, slots.tolist())
        return lower_of_two(slots, candidates.total, rng)


def affine(candidates: Candidates, slots: list[int]) -> int:
    """The slot whose node ranks highest for the request's affinity key."""
    key = candidates.request.affinity.encode()
    nodes = candidates.columns.nodes
    return max(slots, key=lambda slot: zlib.crc32(nodes[slot].id.encode(), zlib.crc32(key)))
