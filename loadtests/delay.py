"""How long a byte is under way: one definition for the simulator's ways and the live WAN proxy's.

A leg takes half the measured minimum plus a lognormal excess; the excess of two legs together has the measured mean
and deviation. Now and then one is several times as long: a shifted lognormal with rare spikes.
"""

from __future__ import annotations

import math
import random

SPIKE_SHARE = 0.001
SPIKE_FACTOR = 3.0


class Delay:
    """One direction of a way, from the summary of its round trips as `ping` gives it. Milliseconds in, seconds out."""

    __slots__ = ("_base", "_draw", "_mu", "_normal", "_sigma", "_spike_factor", "_spike_share", "mean")

    def __init__(
        self, min_ms: float, avg_ms: float, mdev_ms: float, rng: random.Random, spike_share: float = SPIKE_SHARE,
        spike_factor: float = SPIKE_FACTOR,
    ) -> None:  # fmt: skip
        excess = max(0.0, avg_ms - min_ms) / 2e3
        deviation = mdev_ms / 1e3 / math.sqrt(2)  # of one of two independent legs
        self._base = min_ms / 2e3
        if excess > 0.0:
            variance = math.log1p((deviation / excess) ** 2)
            self._mu, self._sigma = math.log(excess) - variance / 2, math.sqrt(variance)
        else:
            self._mu, self._sigma = -math.inf, 0.0
        self._spike_share, self._spike_factor = spike_share, spike_factor
        self._draw, self._normal = rng.random, rng.gauss
        self.mean = (self._base + excess) * (1.0 + spike_share * (spike_factor - 1.0))
        """Seconds it takes on average."""

    def draw(self) -> float:
        """Seconds the next leg takes."""
        seconds = self._base + math.exp(self._mu + self._sigma * self._normal(0.0, 1.0))
        if self._draw() < self._spike_share:
            return seconds * self._spike_factor
        return seconds
