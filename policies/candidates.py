"""The nodes of one model as one request sees them: who may take it, what it would cost there, who is in time.

Made for each decision out of columns.py's table, by a handful of vector operations; what most decisions need not know
is worked out when asked for.
"""

from __future__ import annotations

import math

import numpy as np

from policies.columns import Columns, Floats, Seconds
from policies.masks import Mask
from policies.request import INFINITE, Request

LEAST_SPREADS = 0.5
"""From so many above the mean on, one spread is what lies between, to five digits."""


class Candidates:
    """The nodes of one model as one request sees them: arrays with one entry per slot.

    Feasible means that every deadline is met with the request's probability: mean + z * spread <= limit, where z is
    the quantile of this gateway's own errors at the level that keeps its promises (calibrate.py).
    """

    __slots__ = ("_price", "_total", "columns", "cost", "eligible", "fit", "open", "request", "whole", "z", "z_first")

    z: float
    """Spreads above the mean that the whole answer is granted, ..."""
    z_first: float
    """... and its first token."""
    open: bool
    """Whether a promise may be given now."""

    whole: Floats
    """Seconds at z spreads above the mean."""
    cost: Floats
    """US dollars."""
    eligible: Mask
    """May take it."""
    fit: Mask
    """May take it and is predicted to meet every deadline."""

    def __init__(self, columns: Columns, request: Request, eligible: Mask, now: float) -> None:
        self.columns = columns
        self.request = request
        self._total: Floats | None = None
        calibration, asks_first = columns.calibration, request.first_token_deadline < INFINITE
        self.z, self.open = z, _ = calibration.whole(request.probability, request.tenant)
        self.z_first = calibration.quantiles(request.probability, request.tenant)[1] if asks_first else z
        self.whole, self.cost = whole, _ = columns.at(request, request.output_tokens, z)
        self._price: Floats | None = None
        if request.max_cost < INFINITE:
            eligible = eligible & (self.cost <= request.max_cost)
        self.eligible = eligible
        deadline, limit = request.deadline, columns.limit
        if deadline == INFINITE and request.patient:
            self.fit = eligible & (columns.wait <= request.patience)
            return
        limit[()] = deadline - now
        fit = eligible & (whole <= limit)
        if asks_first:
            first, _ = columns.at(request, 0.0, self.z_first)
            limit[()] = request.first_token_deadline - now
            fit = fit & (first <= limit)
        if request.token_interval < INFINITE:
            # A node's pace varies with its relative error, not with what waits in front of it.
            fit = fit & (columns.output * (1.0 + z * columns.error) <= request.token_interval)
        self.fit = fit

    @property
    def price(self) -> Floats:
        """US dollars with congestion counted in."""
        prices = self._price
        if prices is None:
            self._price = prices = self.cost * self.columns.congestion
        return prices

    @property
    def total(self) -> Floats:
        """Seconds in the mean."""
        if self._total is None:
            self._total = self.columns.at(self.request, self.request.output_tokens, 0.0)[0]
        return self._total

    @property
    def spread(self) -> Floats:
        """Standard deviation of the seconds."""
        if abs(self.z) < LEAST_SPREADS:
            return self.columns.evaluate(self.request, self.request.output_tokens)[1]
        spread: Floats = (self.whole - self.total) / np.float32(self.z)
        return spread

    def narrowed(self, keep: Mask) -> Candidates:
        """The same, with fewer nodes."""
        other = object.__new__(Candidates)
        for name in Candidates.__slots__:
            setattr(other, name, getattr(self, name))
        other.eligible, other.fit = self.eligible & keep, self.fit & keep
        return other

    def lateness(self, now: float) -> tuple[Seconds, Seconds, Seconds]:
        """Seconds by which each node misses the deadline, that of the first token, and the pace, with the request's
        probability; none above 0 is feasible."""
        request, columns, z = self.request, self.columns, self.z
        return (
            columns.at(request, request.output_tokens, z)[0] - (request.deadline - now),
            columns.at(request, 0.0, self.z_first)[0] - (request.first_token_deadline - now),
            columns.output * (1.0 + z * columns.error) - request.token_interval,
        )

    def drained(self, now: float) -> float:
        """Seconds until a queue has become so short that its node makes the deadlines, in the mean; infinite where no
        queue is in the way."""
        request, wait = self.request, self.columns.wait
        late = self.total - (request.deadline - now)
        if request.first_token_deadline < INFINITE:
            first, _ = self.columns.at(request, 0.0, 0.0)
            late = np.maximum(late, first - (request.first_token_deadline - now))
        late = late[self.eligible & (wait > 0) & (late <= wait)]
        return float(late.min()) if late.size else INFINITE

    def surest(self, now: float) -> tuple[Floats, float]:
        """How many spreads of slack each eligible node leaves before the nearest deadline (-inf: not eligible), and
        the probability that the best of them makes it."""
        request, calibration = self.request, self.columns.calibration
        residuals = calibration.total
        if request.deadline < INFINITE:
            slack = (request.deadline - now - self.total) / self.spread
        else:
            slack = np.full(len(self.cost), math.inf, np.float32)
        if request.first_token_deadline < INFINITE:
            first, spread, _ = self.columns.evaluate(request, 0.0)
            early = (request.first_token_deadline - now - first) / spread
            if not early.size or float(early.max()) < float(slack.max()):
                residuals = calibration.first
            slack = np.minimum(slack, early)
        if not self.eligible.all():
            slack[~self.eligible] = -math.inf
        return slack, residuals.probability(float(slack.max())) if slack.size else 0.0

    def crowded_out(self, now: float) -> bool:
        """Whether a node would be in time, in the mean, if nobody waited there."""
        return self.drained(now) < INFINITE
