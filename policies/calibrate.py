"""How sure is sure: this gateway's own prediction errors, and the level that keeps a promise whatever they are.

`Residuals` are the errors of recent answers in units of their predicted spread; their quantiles replace the normal
distribution's. `Level` decides how strict to be: online conformal risk control, which bounds the miss rate of what
was accepted as feasible for every sequence of requests, nodes and predictions, adversarial ones included.
`Calibration` holds them per promise and tenant. Pure: it is fed by the router's reports.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import OrderedDict
from statistics import NormalDist

import numpy as np

from policies.estimate import CLASSES
from policies.reliability import Reliability
from policies.request import INFINITE, Eta, Request

WINDOW = 2000
"""Residuals kept: enough that the 99th percentile rests on twenty of them (algorithm.md 2.4)."""
PRIOR = 100
"""Of them, in the beginning: as many quantiles of the normal distribution, which real ones gradually replace."""
REFRESH = 50
"""Residuals after which the quantiles are computed anew: 20 us of sorting, shared by fifty reports."""
LEAST_SPREAD = 1e-4
"""Seconds below which a spread is rounding, not doubt."""
BOUND = 50.0
"""Residuals are cut here: a hung node's error says no more at a thousand spreads than at fifty."""

GAIN = 0.01
"""What one miss costs a level (algorithm.md 2.5): the bound's constant is 1/GAIN, its noise grows with GAIN."""
OVERDRAFT = 0.05
"""How far below 0 a level may fall before it closes: five misses, which a cold gateway makes while it learns."""
LASTED = 1000
"""Requests after which a reopening was a good one: the misses that it may have cost weigh little among so many."""
MAX_LEVEL = 0.5
"""Laxer than even odds is no promise."""
STRICTEST = 0.005
"""A level is used as if it were this at least: beyond it a window of 2,000 residuals says nothing. A closed
level's requests still go where this strictest one sends them, but without a promise, and test it."""
TENANT_SAMPLES = 300
"""Answers after which a tenant has a level of its own; before, its promise's level speaks for it."""
MAX_TENANTS = 1024
"""Tenants whose levels are remembered; the least recently seen are forgotten first."""


class Residuals:
    """(observed - predicted) / spread of recent answers, as quantiles."""

    __slots__ = ("_fresh", "_next", "_sorted", "_window", "count")

    def __init__(self) -> None:
        normal = NormalDist()
        prior = [normal.inv_cdf((i + 0.5) / PRIOR) for i in range(PRIOR)]
        self._window = np.zeros(WINDOW)
        self._window[:PRIOR] = prior
        self._next = PRIOR
        self.count = PRIOR
        """Residuals the quantiles are made of, the prior's included."""
        self._fresh: list[float] = []
        """Those of which the quantiles do not know yet."""
        self._sorted = array("d", prior)
        """An array of floats: read one by one, half as dear as NumPy's, and made at once."""

    def observe(self, residual: float) -> bool:
        """Take one; say whether the quantiles are new."""
        fresh = self._fresh
        fresh.append(residual)
        if self.count < WINDOW:
            self.count += 1
        if len(fresh) < REFRESH:
            return False
        places = np.arange(self._next, self._next + REFRESH) % WINDOW
        self._window[places] = np.clip(fresh, -BOUND, BOUND)
        self._next = (self._next + REFRESH) % WINDOW
        fresh.clear()
        self._sorted = array("d", np.sort(self._window[: self.count]).tobytes())
        return True

    def quantile(self, share: float) -> float:
        """The residual that a share of them does not exceed; beyond what was seen, the largest."""
        rank = math.ceil(share * len(self._sorted)) - 1
        return self._sorted[rank if rank > 0 else 0]

    def probability(self, residual: float) -> float:
        """The share of residuals at or below this one: P(in time) when it is slack over spread."""
        return bisect_right(self._sorted, residual) / len(self._sorted)

    def __repr__(self) -> str:
        return f"<Residuals {self.count}: 50 % {self.quantile(0.5):+.2f}, 95 % {self.quantile(0.95):+.2f}>"


class Level:
    """How often a promise may be broken, steered so that it is broken no more often than `target`.

    eps <- min(MAX_LEVEL, eps + GAIN * (target - missed)); below -OVERDRAFT it is closed, and nothing is accepted as
    feasible. Claim (after algorithm.md 2.5): when T accepted requests have ended, with at most tau outstanding at any
    time and R reopenings,

        misses <= T * target + (eps_1 + OVERDRAFT) / GAIN + tau + 1 + R * (OVERDRAFT / GAIN + tau + 2)

    for any sequence whatever: between two reopenings eps falls from its start to no lower than
    -OVERDRAFT - GAIN * (tau + 1), each miss costs GAIN * (1 - target) and each hit returns GAIN * target.
    A closed level is tested by requests sent as if it were open: hits return, misses cost, and `patience` hits more
    than misses allow reopen it. Each reopening that did not last doubles the patience, so that R stays below
    log2(tests) + T / LASTED. Gibbs and Candes, "Adaptive Conformal Inference Under Distribution Shift" (NeurIPS 2021).
    """

    __slots__ = ("_accepted", "_tested", "eps", "patience", "reopened", "settled_count", "target")

    def __init__(self, target: float, eps: float | None = None) -> None:
        self.target = target
        self.eps = target if eps is None else eps
        self.reopened = 0
        self.settled_count = 0
        """Requests it accepted that have ended."""
        self.patience = 1.0 / target
        """Hits beyond what misses cost that reopen it."""
        self._accepted = 0
        """Since it last reopened."""
        self._tested = 0.0

    @property
    def closed(self) -> bool:
        """Whether nothing is accepted as feasible now."""
        return self.eps <= -OVERDRAFT

    def settled(self, missed: bool) -> None:
        """A request it accepted has ended."""
        self._accepted += 1
        self.settled_count += 1
        if self._accepted == LASTED:
            self.patience = 1.0 / self.target
        eps = self.eps + GAIN * (self.target - missed)
        self.eps = eps if eps < MAX_LEVEL else MAX_LEVEL

    def tested(self, missed: bool) -> None:
        """A request that would have been accepted, were the level not closed, has ended."""
        if not self.closed:
            return
        self._tested = max(0.0, self._tested + (1.0 - 1.0 / self.target if missed else 1.0))
        if self._tested >= self.patience:
            if self._accepted < LASTED:
                self.patience *= 2.0
            self.eps, self.reopened = 0.0, self.reopened + 1
            self._tested, self._accepted = 0.0, 0

    def __repr__(self) -> str:
        return (
            f"<Level {self.eps:.4f} of {self.target:.2f}{' closed' if self.closed else ''}, {self.reopened} reopened>"
        )


class Calibration:
    """The levels of every promise, and of the tenants that have enough answers for one of their own."""

    __slots__ = ("_promises", "_tenants", "first", "reliability", "total")

    def __init__(self) -> None:
        self.first = Residuals()
        """Of the time to first token."""
        self.total = Residuals()
        """Of the time to the last byte."""
        self.reliability = Reliability()
        """Of the chances that requests with a deadline were dispatched with."""
        self._promises = {p: Level(1.0 - p) for p in CLASSES}
        self._tenants: OrderedDict[tuple[float, str], Level] = OrderedDict()

    def bar(self, probability: float, tenant: str) -> float:
        """The chance from which a node counts as in time now, so that promises of this probability are kept."""
        return 1.0 - max(STRICTEST, self.level(probability, tenant))

    def quantiles(self, probability: float, tenant: str) -> tuple[float, float]:
        """Spreads above the mean to grant the whole answer and its first token, to keep a promise."""
        bar = self.bar(probability, tenant)
        return self.total.quantile(bar), self.first.quantile(bar)

    def whole(self, probability: float, tenant: str) -> tuple[float, bool]:
        """Spreads above the mean to grant the whole answer, and whether the promise may be given now: what most
        decisions want to know, from one look at the levels."""
        eps = self._promises[probability].eps
        own = self._own(probability, tenant) if tenant else None
        if own is not None and own.eps < eps:
            eps = own.eps
        return self.total.quantile(1.0 - (eps if eps > STRICTEST else STRICTEST)), eps > -OVERDRAFT

    def level(self, probability: float, tenant: str) -> float:
        """The share of misses to allow now.

        A tenant's own level counts beside its promise's, and the stricter of the two decides: then both keep their
        bound.
        """
        promise, own = self._promises[probability], self._own(probability, tenant)
        return promise.eps if own is None or promise.eps < own.eps else own.eps

    def open(self, probability: float, tenant: str) -> bool:
        """Whether the promise may be given now."""
        own = self._own(probability, tenant)
        return not self._promises[probability].closed and (own is None or not own.closed)

    def _own(self, probability: float, tenant: str) -> Level | None:
        """A tenant's own level, once it has answers enough."""
        level = self._tenants.get((probability, tenant)) if tenant else None
        return None if level is None or level.settled_count < TENANT_SAMPLES else level

    def chance(self, request: Request, eta: Eta, now: float) -> float:
        """P(every deadline is met), by the errors seen: that of the nearest one; 1 without any."""
        chance = 1.0
        if request.deadline < INFINITE:
            slack = request.deadline - now - eta.total
            chance = self.total.probability(slack / max(LEAST_SPREAD, eta.spread))
        if request.first_token_deadline < INFINITE:
            slack = request.first_token_deadline - now - eta.first_token
            chance = min(chance, self.first.probability(slack / max(LEAST_SPREAD, eta.first_spread)))
        return chance

    def promise(self, probability: float) -> Level:
        return self._promises[probability]

    def settled(self, probability: float, tenant: str, missed: bool) -> None:
        """A request accepted as feasible has ended."""
        promise = self._promises[probability]
        promise.settled(missed)
        if not tenant:
            return
        key = probability, tenant
        own = self._tenants.get(key)
        if own is None:
            if len(self._tenants) >= MAX_TENANTS:
                self._tenants.popitem(last=False)
            own = self._tenants[key] = Level(promise.target, promise.eps)
        else:
            self._tenants.move_to_end(key)
        own.settled(missed)

    def tested(self, probability: float, tenant: str, missed: bool) -> None:
        """A request without a promise, since a level was closed, has ended."""
        self._promises[probability].tested(missed)
        own = self._own(probability, tenant)
        if own is not None:
            own.tested(missed)
