"""What this gateway learns about a worker: round trips, and how far its service curve is off.

Each estimator is a handful of floats with `observe`; none keeps samples, reads a clock or forgets by itself.
"""

from __future__ import annotations

import math

RTT_GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
"""RFC 6298 section 2: smoothed round trip and its mean deviation, gains 1/8 and 1/4."""
PRIOR_RTT = 0.1
"""A region nobody has measured: between a metro (5 ms) and the antipodes (300 ms), with as much deviation."""
OVERHEAD_STEP = 0.05
"""Seconds by which one sample may at most exceed twice the mean: a slow TCP start over a long way is real."""
SPEED_GAIN = 0.1
"""Gain of the per-node speed correction (algorithm.md 2.3): about the last ten requests count."""
SPEED_CLIP = (-1.6, 1.6)
"""Log bounds of the correction, a factor 5: beyond that the curve is wrong, not the node slow."""
CHARGE_CLIP = (-6.0, 6.0)
"""Of what accelerators charge: 256 slots charge one lone request 256 times its share of a full batch."""
PRIOR_SAMPLES = 3
"""What the curve weighs against the first samples: the first of a cold process may be several times too slow."""
_SETTLED = 1 / SPEED_GAIN - PRIOR_SAMPLES
"""From so many samples on the gain is the constant one."""
PRIOR_ERROR = 0.1
"""Relative service error assumed until it is learned (algorithm.md 2.3: 0.1 of the service time)."""
MIN_ERROR = 0.02

CLASSES = (0.90, 0.95, 0.98, 0.99)
"""The probability classes a request may ask for."""


class RoundTrips:
    """Smoothed round-trip time and its jitter in seconds, starting from a prior that the first sample replaces."""

    __slots__ = ("jitter", "mean", "samples")

    def __init__(self, prior: RoundTrips | None = None) -> None:
        self.mean: float = prior.mean if prior is not None else PRIOR_RTT
        self.jitter: float = prior.jitter if prior is not None else PRIOR_RTT
        self.samples = 0

    def observe(self, seconds: float) -> None:
        if self.samples == 0:
            self.mean, self.jitter = seconds, seconds / 2  # RFC 6298 (2.2)
        else:
            self.jitter += DEVIATION_GAIN * (abs(seconds - self.mean) - self.jitter)
            self.mean += RTT_GAIN * (seconds - self.mean)
        self.samples += 1

    def __repr__(self) -> str:
        return f"<RoundTrips {self.mean * 1e3:.1f}±{self.jitter * 1e3:.1f} ms, {self.samples} samples>"


class Overhead:
    """What a request spends on the way beyond a probe's round trip (its body, the HTTP stacks), in seconds."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 0.0

    def observe(self, seconds: float) -> None:
        mean = self.mean
        most = 2.0 * mean + OVERHEAD_STEP  # one stall is an accident, not a distance
        mean += RTT_GAIN * ((seconds if seconds < most else most) - mean)
        self.mean = mean if mean > 0.0 else 0.0

    def fade(self, share: float) -> None:
        """Forget a share of it."""
        self.mean -= share * self.mean


class Speed:
    """How much slower (`factor` > 1) or faster a node is than its service curve, and the relative error left.

    The mean of the logarithm is tracked, so that twice and half as fast weigh the same.
    """

    __slots__ = ("_clip", "_log", "error", "factor", "samples")

    def __init__(self, clip: tuple[float, float] = SPEED_CLIP) -> None:
        self._clip = clip
        self._log = 0.0
        self.factor = 1.0
        self.error = PRIOR_ERROR
        self.samples = 0

    def observe(self, ratio: float) -> None:
        """One request's actual compute time over the curve's."""
        if not 0.0 < ratio < math.inf:
            return
        low, high = self._clip
        value = math.log(ratio)
        if not low < value < high:
            value = low if value < 0.0 else high
        self.samples = samples = self.samples + 1
        gain = SPEED_GAIN if samples >= _SETTLED else 1.0 / (samples + PRIOR_SAMPLES)
        off = value - self._log
        error = self.error + gain * (abs(off) - self.error)
        self.error = error if error > MIN_ERROR else MIN_ERROR
        self._log += gain * off
        self.factor = math.exp(self._log)

    def fade(self, share: float) -> None:
        """Forget a share of what was learned: towards the curve, and towards the prior's doubt."""
        self._log -= share * self._log
        self.factor = math.exp(self._log)
        self.error += share * (PRIOR_ERROR - self.error)

    def __repr__(self) -> str:
        return f"<Speed x{self.factor:.2f}±{self.error:.0%}>"
