"""One-way delays between regions, drawn from measured round trips, and where the way is cut.

A leg takes half the table's minimum plus a lognormal excess; the excess of two legs together has the table's mean and
deviation. Now and then one is several times as long (algorithm.md 5.1).
"""

from __future__ import annotations

import math
import random

from loadtests.simulator.world import RoundTrip, Wan, World, WorldError


class Way:
    """The way between two regions: the same in both directions."""

    __slots__ = ("_base", "_draw", "_mu", "_normal", "_sigma", "_spike_factor", "_spike_share", "cut", "mean")

    def __init__(self, trip: RoundTrip, wan: Wan, rng: random.Random) -> None:
        excess = max(0.0, trip.avg_ms - trip.min_ms) / 2e3
        deviation = trip.mdev_ms / 1e3 / math.sqrt(2)  # of one of two independent legs
        self._base = trip.min_ms / 2e3
        if excess > 0.0:
            variance = math.log1p((deviation / excess) ** 2)
            self._mu, self._sigma = math.log(excess) - variance / 2, math.sqrt(variance)
        else:
            self._mu, self._sigma = -math.inf, 0.0
        self._spike_share, self._spike_factor = wan.spike_share, wan.spike_factor
        self._draw, self._normal = rng.random, rng.gauss
        self.mean = (self._base + excess) * (1.0 + wan.spike_share * (wan.spike_factor - 1.0))
        """Seconds a leg takes on average."""
        self.cut = 0
        """How many faults cut it at the moment; while any does, nothing arrives."""

    def draw(self) -> float:
        """Seconds the next leg takes."""
        seconds = self._base + math.exp(self._mu + self._sigma * self._normal(0.0, 1.0))
        if self._draw() < self._spike_share:
            return seconds * self._spike_factor
        return seconds


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
