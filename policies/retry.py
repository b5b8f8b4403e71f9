"""Whether a failed attempt may be repeated on another worker, and how many such repeats the fleet can stand.

The rule (R1 to R4) is in `repeatable`; the budget has two halves that must both agree: a share of recent requests
(Finagle's RetryBudget, Envoy's 20 %) and gRPC's token bucket (proposal A6), which stops retries in a lasting outage.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from policies.reason import Reason
from policies.records import Share
from policies.request import Outcome

_SAFE = frozenset({Reason.CONNECT_FAILED, Reason.REFUSED})
_AMBIGUOUS = frozenset(
    {Reason.UPSTREAM_LOST, Reason.UPSTREAM_ERROR, Reason.BAD_UPSTREAM_REPLY, Reason.DEADLINE_EXCEEDED}
)


def repeatable(outcome: Outcome, pure: bool) -> bool:
    """Whether the failed attempt may be repeated elsewhere, provided no byte of it went to the client (R4).

    R1 (no request byte written) and R2 (the worker said it did not execute) are always safe; R3 (written, no
    complete answer) is ambiguous and allowed only where repeating has no effect but cost (`pure`).
    """
    if outcome.reason in _SAFE or not outcome.executed:
        return outcome.reason is not Reason.CLIENT_GONE
    return pure and outcome.reason in _AMBIGUOUS


class RetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_extra: Annotated[int, msgspec.Meta(ge=0, le=4)] = 2
    """Attempts beyond the first."""
    share: Share = 0.2
    """Repeats per request, on average (Envoy's retry budget)."""
    min_in_flight: Annotated[int, msgspec.Meta(ge=0)] = 3
    """Repeats always allowed at once, so that a quiet gateway can repeat at all (Envoy)."""
    bucket_tokens: Annotated[float, msgspec.Meta(ge=1)] = 1000.0
    """gRPC A6: each failure takes a token; no repeats at half or below. A worker that dies fails all it had in flight
    at once, so the bucket is as large as A6 allows, not its example of 10."""
    token_ratio: Share = 0.1
    """What each success returns."""


BALANCE_CAP = 500.0
"""Repeats that may be saved up for a burst: what a gateway's busiest worker may have in flight when it dies."""
OPENING_BALANCE = 100.0
"""Repeats allowed before there was any traffic: 10 a second for 10 seconds, Finagle's default minimum."""


class RetryBudget:
    """Counts requests and repeats of one policy."""

    __slots__ = ("_balance", "_in_flight", "_tokens", "config")

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self._balance = OPENING_BALANCE
        self._in_flight = 0
        self._tokens = config.bucket_tokens

    def requested(self) -> None:
        """A first attempt was dispatched."""
        balance = self._balance + self.config.share
        self._balance = balance if balance < BALANCE_CAP else BALANCE_CAP

    def take(self) -> bool:
        """Ask for one repeat; it is counted as in flight until `released`."""
        if self._tokens <= self.config.bucket_tokens / 2:
            return False
        if self._in_flight >= self.config.min_in_flight:
            if self._balance < 1.0:
                return False
            self._balance -= 1.0
        self._in_flight += 1
        return True

    def released(self) -> None:
        """A repeat ended, however it did."""
        self._in_flight -= 1

    def settled(self, ok: bool) -> None:
        """An attempt ended: feed the token bucket."""
        config = self.config
        if not ok:
            self._tokens = max(0.0, self._tokens - 1.0)
        elif self._tokens < config.bucket_tokens:
            self._tokens = min(config.bucket_tokens, self._tokens + config.token_ratio)

    def __repr__(self) -> str:
        return f"<RetryBudget {self._in_flight} in flight, balance {self._balance:.1f}, {self._tokens:.1f} tokens>"
