"""The house policy: the cheapest nodes in time, a queue counted as a price; spread where others cannot yet see us.

algorithm.md 2.6 and 2.7. A price is cost times congestion. Of the nodes in time, cheapest first, the shortest prefix
that holds the cheapest tier and has room for what all gateways send before any of them sees the effect; inside it one
at random, by room. Fresh knowledge so gives the cheapest tier, old knowledge spreads (after Dahlin, "Interpreting Stale
Load Information", 2000).
"""

from __future__ import annotations

import random
import zlib
from bisect import bisect_left, bisect_right
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from policies.balancers import Slots
from policies.candidates import Candidates
from policies.columns import Floats

Room = list[float] | npt.NDArray[np.float64]

TIER = 1.05
"""A tier is what is priced at most 5 % above the cheapest in time: wide enough that equal nodes with slightly different
learned speeds share the load, narrow enough that the choice costs nothing worth mentioning."""
SPREAD = 0.03
"""How much of what all gateways send unseen a prefix must have room for. Tuned in the simulator's headline world on
seed 101: 0.1 costs 3 % more for no more attainment, with 0 the slowest hundredth waits half as long again."""
LONGEST = 64
"""Nodes in a prefix at most."""
LOYALTY = 1.3
"""What a warm session or prefix may cost, relative to the cheapest in time (algorithm.md 2.7)."""


class CheapestInDeadline:
    """Among the nodes predicted in time, one of the cheapest that have room.

    A request with an affinity key goes to the same node each time, as long as that node is in time and not much dearer
    than the cheapest (rendezvous hashing, Thaler and Ravishankar 1998): feasibility first, the warm prefix second.
    """

    def __init__(self, pack: bool = False) -> None:
        """`pack`: fill one node of a tier before the next, so that the others fall idle and may be stopped."""
        self._choose = fullest_with_room if pack else cheapest_with_room

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = candidates.fit.nonzero()[0]
        if not len(slots):
            return None
        if candidates.request.affinity:
            prices = candidates.price[slots]
            return affine(candidates, slots[prices <= prices[prices.argmin()] * LOYALTY].tolist())
        return self._choose(candidates, slots, rng)


def cheapest_with_room(candidates: Candidates, slots: Slots, rng: random.Random) -> int:
    """One of the cheapest prefix of `slots`, at random by room."""
    columns, prices, limit = candidates.columns, candidates.price[slots], candidates.columns.limit
    limit[()] = prices.item(prices.argmin()) * TIER
    tier = slots[(prices <= limit).nonzero()[0]]
    headroom, need, count = columns.headroom, SPREAD * columns.unseen, len(tier)
    if count == 1 and headroom[tier[0]] >= need:
        return int(tier[0])
    room = _room(headroom[tier])
    if room[-1] < need and count < min(len(slots), LONGEST):
        tier, room = _widened(headroom, prices, slots, count, need)
    drawn = bisect_right(room, rng.random() * room[-1])
    return int(tier[drawn if drawn < len(room) else -1])


def fullest_with_room(candidates: Candidates, slots: Slots, rng: random.Random) -> int:
    """Of the cheapest tier the node with the fewest free slots, and at least one: the least positive headroom.

    A load gradient makes scale-in easy (PolyServe, 2025). Only with fresh knowledge: the fullest few must have slots
    for all that is sent before anybody hears of it, or else many gateways fill the same one; where the tier has not so
    many the choice is the ordinary one.
    """
    columns, prices = candidates.columns, candidates.price[slots]
    tier = slots[prices <= prices[prices.argmin()] * TIER]
    work = columns.outstanding[tier]
    if len(tier) > LONGEST:
        most = work.argpartition(-LONGEST)[-LONGEST:]
        tier, work = tier[most], work[most]
    free = [
        columns.nodes[slot].state.slots - at_work for slot, at_work in zip(tier.tolist(), work.tolist(), strict=True)
    ]
    fullest_first = sorted((left, slot) for left, slot in zip(free, tier.tolist(), strict=True) if left >= 1.0)
    room = list(accumulate(left for left, _ in fullest_first))
    need = 1.0 + columns.unseen
    if not room or room[-1] < need:
        return cheapest_with_room(candidates, slots, rng)
    last = bisect_left(room, need)
    drawn = bisect_right(room, rng.random() * room[last], 0, last)
    return int(fullest_first[drawn][1])


def _widened(headroom: Floats, prices: Floats, slots: Slots, least: int, need: float) -> tuple[Slots, Room]:
    """The shortest prefix by price of at least so many nodes with so much room, and the room up to each of them."""
    if len(slots) > LONGEST:
        near = prices.argpartition(LONGEST)[:LONGEST]
        slots, prices = slots[near], prices[near]
    order = slots[prices.argsort(kind="stable")]
    room = _room(headroom[order])
    count = max(least, bisect_left(room, need) + 1)
    return order[:count], room[:count]


def _room(headroom: Floats) -> Room:
    """The room up to and including each, added up in double precision: in Python where there are few, at half the
    price."""
    if len(headroom) > LONGEST:
        return headroom.cumsum(dtype=np.float64)
    return list(accumulate(headroom.tolist()))


def affine(candidates: Candidates, slots: list[int]) -> int:
    """The slot whose node ranks highest for the request's affinity key."""
    key = candidates.request.affinity.encode()
    nodes = candidates.columns.nodes
    return max(slots, key=lambda slot: zlib.crc32(nodes[slot].id.encode(), zlib.crc32(key)))
