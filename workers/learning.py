"""What a line's batches take here and how fast its jobs arrive, learned from its own traffic: pure, times come in.

A curve `fixed + each * items` is fitted by least squares of relative errors, old batches fading. The manifest's curve,
calibrated at start, stands for what traffic has not shown: while all batches are of one size, its shape is kept and
only its scale learned.
"""

from __future__ import annotations

from workers.forming import Service

MEMORY = 200
"""Batches after which what was learned counts about a third: a few seconds of a busy line."""
PRIOR = 1.0
"""Batches that the calibrated curve counts for at either end: enough for a shape, and outvoted at once."""
ENOUGH = 20
"""Batches lately that make a curve worth telling: the first few after a pause find cold caches."""
OUTLIER = 4.0
"""A batch counts at most as that many times longer or shorter than expected: a machine that paused is no slow model."""
LEAST_CAUTION = 0.05
"""Share that plans allow a batch beyond its mean even where no error was seen."""
GAP_GAIN = 0.05
"""Weight of the newest gap between arrivals: about the last twenty."""
DOUBTED = 100
"""Refusals in a row, without a batch between them, after which what was learned is forgotten: what is not executed
teaches nothing, and a wrong curve must not refuse for ever. In plain overload a batch comes between a few dozen."""
SHORTEST = 1e-6
"""Seconds of a batch of one whose curve says that it takes no time."""


class Learned:
    """The service of one line's batches."""

    def __init__(self, prior: Service, most: int) -> None:
        self._prior = prior if prior.seconds(1) > 0 else Service(SHORTEST, 0.0)
        self._most = max(most, 2)
        self._weights = [0.0] * 5
        """Sums over batches of w, w*n, w*n*n, w*t, w*n*t, where w is one over the square of the expected time."""
        self._scales = [0.0, 0.0]
        """Sums of time over expected time, and of batches."""
        self._off = 0.0
        """Mean of the relative error, by moving average."""
        self._refused = 0
        """Since the last batch."""
        self.service = self._fitted()

    @property
    def sure(self) -> bool:
        """Whether it has seen enough to be told to others."""
        return self._scales[1] >= ENOUGH

    def observe(self, items: float, seconds: float) -> None:
        """A batch was done."""
        expected = self.service.seconds(items)
        seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        self._off += (abs(seconds / expected - 1.0) - self._off) / min(self._scales[1] + 1.0, MEMORY)
        prior = self._prior.seconds(items)
        weight = prior**-2
        keep = 1.0 - 1.0 / MEMORY
        self._weights = [keep * each for each in self._weights]
        self._scales = [keep * each for each in self._scales]
        self._refused = 0
        for index, part in enumerate((1.0, items, items * items, seconds, items * seconds)):
            self._weights[index] += weight * part
        self._scales[0] += seconds / prior
        self._scales[1] += 1.0
        self.service = self._fitted()

    def refused(self) -> None:
        """A job was refused because it would take too long."""
        self._refused += 1
        if self._refused == DOUBTED:
            self._weights, self._scales = [0.0] * 5, [0.0, 0.0]
            self.service = self._fitted()

    def _fitted(self) -> Service:
        scale = (self._scales[0] + PRIOR) / (self._scales[1] + PRIOR)
        w, wn, wnn, wt, wnt = self._weights
        for items in (1, self._most):
            expected = self._prior.seconds(items)
            weight = PRIOR * expected**-2
            w, wn, wnn = w + weight, wn + weight * items, wnn + weight * items * items
            wt, wnt = wt + weight * scale * expected, wnt + weight * items * scale * expected
        each = (w * wnt - wn * wt) / (w * wnn - wn * wn)
        fixed = (wt - each * wn) / w
        least = 1e-3 * scale * self._prior.seconds(1)
        if fixed < least:  # batching gains nothing there
            fixed, each = least, (wnt - least * wn) / wnn
        if each < least:  # nor does an item cost anything
            fixed, each = (wt - least * wn) / w, least
        return Service(fixed, each, 1.0 + max(self._off, LEAST_CAUTION))


class Rate:
    """Arrivals per second in one line."""

    def __init__(self) -> None:
        self._gap = 0.0
        self._last: float | None = None

    def arrived(self, now: float) -> None:
        if self._last is not None:
            gap = now - self._last
            self._gap = gap if self._gap == 0.0 else self._gap + GAP_GAIN * (gap - self._gap)
        self._last = now

    def at(self, now: float) -> float:
        """A gap that is still open counts once it is longer than usual. 0 before there were two arrivals."""
        gap = max(self._gap, 0.0 if self._last is None else now - self._last)
        return 1.0 / gap if self._gap > 0.0 else 0.0
