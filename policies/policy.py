"""A named policy at work: its settings, and what it has learned that a change of policies forgets."""

from __future__ import annotations

from collections.abc import Mapping

from policies.admission import MAX_FLOOR, AdmissionConfig, Overload
from policies.balancers import Balancer
from policies.fairness import Shares
from policies.hedge import HedgeConfig, Hedging
from policies.request import Request
from policies.retry import RetryBudget, RetryConfig

LENIENCE = 0.6
"""Of its share that a tenant may have beyond it while overload begins; in full overload it has none. In S11 (seed 101),
all in deadline and the tenants other than the hog: 82.8 % and 84 to 88 without shares, 78.5 and 91 to 96 with them."""


class Policy:
    """A named policy at work: a balancer, what to admit, what to repeat, what to hedge, whose turn it is."""

    def __init__(
        self, balancer: Balancer, admission: AdmissionConfig, retry: RetryConfig, hedge: HedgeConfig | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.balancer = balancer
        self.admission = admission
        self.overload = Overload()
        self.budget = RetryBudget(retry)
        self.hedging = None if hedge is None else Hedging(hedge)
        self.shares = Shares(weights)
        self.in_flight = 0

    def refuses_early(self, request: Request, chance: float, now: float) -> bool:
        """Whether an attempt with this chance of success is not worth its time, while there is not enough for all."""
        floor = self.overload.floor
        return floor > 0.0 and ((self.admission.early_rejection and chance < floor) or self.over_share(request, now))

    def over_share(self, request: Request, now: float) -> bool:
        """Whether its tenant has had more than its share, while there is not enough for all."""
        return self.admission.fair and self.shares.over(
            request.tenant, now, LENIENCE * (1.0 - self.overload.floor / MAX_FLOOR)
        )
