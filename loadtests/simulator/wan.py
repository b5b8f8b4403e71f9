"""One-way delays between regions, drawn from measured round trips (delay.py), and where the way is cut."""

from __future__ import annotations

import random

from loadtests.delay import Delay
from loadtests.simulator.world import RoundTrip, Wan, World, WorldError


class Way(Delay):
    """The way between two regions: the same in both directions."""

    __slots__ = ("cut",)

    def __init__(self, trip: RoundTrip, wan: Wan, rng: random.Random) -> None:
        super().__init__(trip.min_ms, trip.avg_ms, trip.mdev_ms, rng, wan.spike_share, wan.spike_factor)
        self.cut = 0
        """How many faults cut it at the moment; while any does, nothing arrives."""


class Network:
    """The ways between all regions of a world. Each pair has its own, made when it is first asked for."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._trips = {frozenset(trip.between): trip for trip in world.round_trips}
        self._ways: dict[frozenset[str], Way] = {}

    def way(self, a: str, b: str) -> Way:
        """Raises WorldError for two regions whose round trip nobody has measured."""
        pair = frozenset((a, b))
        way = self._ways.get(pair)
        if way is None:
            trip = self._trips.get(pair)
            if trip is None:
                raise WorldError(f"round_trips: none between {a!r} and {b!r}")
            way = self._ways[pair] = Way(trip, self._world.wan, self._rng)
        return way

    def between(self, these: set[str], those: set[str]) -> list[Way]:
        """The ways from one group of regions to another. Inside a region nothing is ever cut."""
        pairs = {frozenset((a, b)) for a in these for b in those if a != b}
        return [self.way(*pair) for pair in sorted(map(tuple, map(sorted, pairs)))]
