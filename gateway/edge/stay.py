"""One request's stay among those held: which router holds it, since when, and how it ended.

The line is the router's (policies/waiting.py); here is what ties a place in it to an exchange. A stay ends exactly
once, whatever ends it: the request is sent, refused, or its client leaves.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policies.request import Request

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.edge.plane import Plane
    from policies.router import Router

log = logging.getLogger(__name__)


class Stay:
    """Of one exchange, from the first `Hold` to the next other decision."""

    __slots__ = ("_exchange", "_plane", "ended", "request", "router", "seconds", "since")

    def __init__(self, exchange: Exchange, plane: Plane, request: Request, router: Router, now: float) -> None:
        self._exchange = exchange
        self._plane = plane
        self.request = request
        self.router = router
        """Who holds it; a reload may have put another in its place since, which need not know its policy."""
        self.since = now
        self.seconds = 0.0
        """How long it was, once it has ended."""
        self.ended = False
        plane.stays[id(request)] = self

    def __repr__(self) -> str:
        return f"<Stay of {self.request.id}{' ended' if self.ended else ''}>"

    def end(self, how: str, now: float) -> None:
        """It is held no longer; `how` is what it counts as. Later calls have no effect."""
        if self.ended:
            return
        self.ended = True
        self.seconds = now - self.since
        self.router.waiting.leave(self.request)
        del self._plane.stays[id(self.request)]
        self._plane.telemetry.held(how, self.seconds)

    def again(self, now: float) -> None:
        """Something may have changed for it."""
        try:
            self._exchange.again(self, now)
        except Exception:
            log.exception("%r failed", self._exchange)
            self._exchange.broke()


def release(plane: Plane, now: float) -> None:
    """Route those held again that come first, after a change. One that ends meanwhile changes something itself, which
    the same loop then finds."""
    if plane.releasing:
        return
    plane.releasing = True
    try:
        for request in plane.router.waiting.front():
            plane.stays[id(request)].again(now)
    finally:
        plane.releasing = False
