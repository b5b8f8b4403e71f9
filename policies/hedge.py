"""When a second worker is asked beside a silent one, and how many such hedges the fleet can stand (algorithm.md 2.9).

A hedge is due when the first byte is later than nearly all of that node's, and not before the last instant at which
another node is still predicted in time: until then the first may answer, and waiting costs nothing. It is sent if the
probability that it adds is worth its price. Dean and Barroso, "The Tail at Scale" (CACM 2013); the router asks.
"""

from __future__ import annotations

import random
from typing import Annotated

import msgspec
import numpy as np

from policies.balancers.cheapest_in_deadline import cheapest_with_room
from policies.calibrate import LEAST_SPREAD, Calibration, Residuals
from policies.candidates import Candidates
from policies.reason import Reason
from policies.records import Share
from policies.request import INFINITE, Dispatch, Eta, Hold, Shed, Status


class HedgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    share: Share = 0.02
    """Hedges per request, on average; half as many while the fleet is crowded."""
    quantile: Annotated[float, msgspec.Meta(ge=0.5, lt=1.0)] = 0.95
    """Share of a node's first bytes that come earlier than a hedge is thought of (Dean and Barroso)."""
    worth: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """What an answer in time is worth, in prices of the first attempt: at 10 a hedge as dear must add a tenth to the
    probability."""


CROWDED = 0.5
"""Of the share, in overload: an extra attempt then keeps somebody else waiting."""
BALANCE_CAP = 10.0
"""Hedges that may be saved up: a node that stalls has a handful of requests in flight."""
LATENESS = 0.02
"""Seconds before the last instant at which a hedge is sent: two ticks of the gateway's timer wheel."""

PATIENCE = 0.25
"""Spreads after which one whose silence says too little yet is looked at again: its chance falls within a few."""
LEAST_GAIN = 0.01
"""Probability a hedge must add where neither node costs anything: a hundredth is noise."""


class Hedging:
    """The hedges of one policy: a token bucket that requests fill and hedges empty."""

    __slots__ = ("_balance", "config")

    def __init__(self, config: HedgeConfig) -> None:
        self.config = config
        self._balance = 1.0  # a quiet gateway may hedge once

    def due(self, candidates: Candidates, status: Status, eta: Eta, crowded: bool, now: float) -> float:
        """Count a first attempt that is dispatched now, and say when it will have been silent for so long that a hedge
        is worth thinking of; infinite where there is no promise to keep, or no time left by then."""
        config, request = self.config, candidates.request
        balance = self._balance + (config.share * CROWDED if crowded else config.share)
        self._balance = balance if balance < BALANCE_CAP else BALANCE_CAP
        nearest = min(request.deadline, request.first_token_deadline)
        if nearest == INFINITE or status is Status.BEST_EFFORT:
            return INFINITE
        calibration = candidates.columns.calibration
        if request.stream:
            late = calibration.first.quantile(config.quantile) * max(LEAST_SPREAD, eta.first_spread)
            due = now + max(0.0, eta.first_token + late)
        else:  # whose first byte comes when all of it is there
            late = calibration.total.quantile(config.quantile) * max(LEAST_SPREAD, eta.spread)
            due = now + max(0.0, eta.total + late)
        return due if due < nearest else INFINITE

    def consider(
        self, beside: Dispatch, candidates: Candidates, crowded: bool, now: float, rng: random.Random
    ) -> int | Hold | Shed:
        """The slot to hedge a silent dispatch at; when to ask again; or why it is not hedged."""
        if self._balance < 1.0:
            return Shed(Reason.OVERLOADED, "The hedge budget is spent.")
        candidates = elsewhere(candidates, beside)
        if candidates.fit.any():
            until = last_instant(candidates, now) - LATENESS
            if until > now:
                return Hold(until)
        elif crowded or not candidates.eligible.any():
            return Shed(Reason.NO_CAPACITY, "No other node is likely to be in time.")
        slot = pick(candidates, now, rng)
        columns, request = candidates.columns, beside.request
        eta, price = columns.nodes[slot].eta(request, now), candidates.cost.item(slot)
        chance, needed = columns.calibration.chance(request, eta, now), self._needed(beside, eta, price)
        if chance < needed or chance == 0.0:
            return Shed(Reason.NO_CAPACITY, "A hedge would cost more than it is worth.")
        if chance - still(columns.calibration, beside, now) < needed:
            return Hold(now + max(LATENESS, PATIENCE * beside.eta.spread))
        self._balance -= 1.0
        return slot

    def _needed(self, beside: Dispatch, eta: Eta, price: float) -> float:
        """How much a hedge must add to the probability to be worth what it costs beside the first."""
        cost = price
        if beside.request.stream and eta.decode:  # the loser is cancelled at the first token: it decodes nothing
            cost *= eta.prefill / (eta.prefill + eta.decode)
        value = self.config.worth * (beside.cost or price)
        return cost / value if value else LEAST_GAIN

    def __repr__(self) -> str:
        return f"<Hedging balance {self._balance:.2f}>"


def elsewhere(candidates: Candidates, beside: Dispatch) -> Candidates:
    """Those in another region than the silent one, where one of them is in time; else all."""
    other = candidates.narrowed(~candidates.columns.masks.named((beside.node.region,)))
    return other if other.fit.any() else candidates


def last_instant(candidates: Candidates, now: float) -> float:
    """Until when the most patient of those in time will be predicted in time, if nothing changes."""
    whole, first, _ = candidates.lateness(now)
    return now - float(np.maximum(whole, first)[candidates.fit].min())


def pick(candidates: Candidates, now: float, rng: random.Random) -> int:
    """One of the cheapest in time; where nobody is, the surest."""
    slots = candidates.fit.nonzero()[0]
    if len(slots):
        return cheapest_with_room(candidates, slots, rng)
    slack, _ = candidates.surest(now)
    return int(slack.argmax())


def still(calibration: Calibration, beside: Dispatch, now: float) -> float:
    """P(a dispatch that is silent yet meets its deadlines): of the errors as large as its silence already shows, those
    that leave it in time."""
    request, eta, at = beside.request, beside.eta, beside.at
    chance, silent = 1.0, now - at
    if request.deadline < INFINITE:
        least = silent + eta.decode if request.stream else silent  # what is not begun is to be decoded yet
        spread = max(LEAST_SPREAD, eta.spread)
        chance = _within(calibration.total, (least - eta.total) / spread, (request.deadline - at - eta.total) / spread)
    if request.first_token_deadline < INFINITE:
        residuals, expected, spread = calibration.first, eta.first_token, max(LEAST_SPREAD, eta.first_spread)
        if not request.stream:
            residuals, expected, spread = calibration.total, eta.total, max(LEAST_SPREAD, eta.spread)
        budget = request.first_token_deadline - at
        chance = min(chance, _within(residuals, (silent - expected) / spread, (budget - expected) / spread))
    return chance


def _within(residuals: Residuals, shown: float, allowed: float) -> float:
    """P(a residual is at most `allowed`), given that it is above `shown`."""
    gone = residuals.probability(shown)
    return max(0.0, residuals.probability(allowed) - gone) / (1.0 - gone) if gone < 1.0 else 0.0
