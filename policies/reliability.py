"""Whether what was predicted with a probability came to pass as often: a reliability diagram, and one figure of it.

Bins of the predicted probability, finer where promises are given. Murphy and Winkler (1977); the expected calibration
error is Naeini, Cooper and Hauskrecht's (AAAI 2015).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Between the bins. The upper ones are the probability classes: nearly all traffic is there."""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of about the same probability."""

    low: float
    high: float
    predicted: float
    """Their mean; 0 without any."""
    kept: float
    """The share that came to pass."""
    count: int

    @property
    def label(self) -> str:
        return f"{self.low:g}-{self.high:g}"


class Reliability:
    """Predictions and what came of them, counted since it was made."""

    __slots__ = ("_counts", "_kept", "_predicted", "_squares")

    def __init__(self) -> None:
        size = len(EDGES) + 1
        self._counts = [0] * size
        self._kept = [0] * size
        self._predicted = [0.0] * size
        self._squares = 0.0

    def add(self, probability: float, kept: bool) -> None:
        """What was predicted to be kept with a probability was kept, or was not."""
        place = bisect_right(EDGES, probability)
        self._counts[place] += 1
        self._predicted[place] += probability
        self._kept[place] += kept
        self._squares += (probability - kept) ** 2

    def merge(self, bins: Iterable[Bin]) -> None:
        """Add what others counted (their squares cannot be known)."""
        for place, one in enumerate(bins):
            self._counts[place] += one.count
            self._predicted[place] += one.predicted * one.count
            self._kept[place] += round(one.kept * one.count)

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def error(self) -> float:
        """Expected calibration error: by how much predicted and kept differ per bin, weighed by its predictions."""
        off = sum(abs(p - k) for p, k in zip(self._predicted, self._kept, strict=True))
        return off / max(1, self.count)

    @property
    def brier(self) -> float:
        """Mean square of what a prediction was off by; lower is better, and sharp beats vague."""
        return self._squares / max(1, self.count)

    def bins(self) -> tuple[Bin, ...]:
        """All of them, empty ones too, from the least probability to the greatest."""
        limits = (0.0, *EDGES, 1.0)
        return tuple(
            Bin(
                low=limits[place], high=limits[place + 1], predicted=self._predicted[place] / max(1, count),
                kept=self._kept[place] / max(1, count), count=count,
            )
            for place, count in enumerate(self._counts)
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Reliability {self.count} predictions, off by {self.error:.1%}>"
