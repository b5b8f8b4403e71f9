"""The second attempt of a hedged pair, until one of the two has answered.

The gateway is what ties the pair: its workers may not reach each other, and none of them says when it starts, so the
first byte of an answer decides. The other's connection is closed at once, which is how a worker learns that its work is
not wanted any more. Both were sent `x-isochrone-hedge`, the same for the two. When the hedge answers, or the first
fails, it takes the first's place in the exchange; when it fails itself, the first goes on as if it had been alone.
"""

from __future__ import annotations

from typing import Protocol

from gateway.edge import loads, relay
from gateway.edge.attempt import Attempt
from gateway.edge.call import Call
from gateway.edge.plane import Plane
from gateway.edge.reply import Reply
from gateway.edge.upstream import Caller, Link
from policies.reason import Reason


class Hedged(Protocol):
    """What a hedge tells the exchange it runs for."""

    __slots__ = ()

    call: Call

    def outrun(self, link: Link) -> None:
        """The hedge has answered first."""

    def unhedged(self, reason: Reason, *, executed: bool = True) -> None:
        """The hedge has failed."""

    def broke(self) -> None: ...


class Hedge(Caller):
    """A dispatch on its way beside another. `attempt` is settled by whoever ends it."""

    __slots__ = ("_exchange", "_plane", "attempt")

    def __init__(self, exchange: Hedged, plane: Plane, attempt: Attempt) -> None:
        self._exchange = exchange
        self._plane = plane
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"<Hedge {self.attempt!r}>"

    def start(self, now: float) -> None:
        """Send it, on an idle link or as soon as there is one."""
        link = self.attempt.pool.take()
        if link is None:
            self._connect()
        else:
            self._send(link, now)

    def _connect(self) -> None:
        attempt = self.attempt
        attempt.pool.connect(self, max(self._plane.upstream.connect_timeout, attempt.connect_timeout))

    def _send(self, link: Link, now: float) -> None:
        attempt, call = self.attempt, self._exchange.call
        link.caller = self
        attempt.link, attempt.sent = link, now
        target, body = call.addressed(attempt.dispatch.node)
        head = attempt.head(call.head, target, len(body), call.id.encode(), call.asked.traceparent, now)
        link.send(self, head, body)

    def leave(self) -> None:
        """Its worker is not wanted any more, or is another's to hear from now."""
        attempt = self.attempt
        attempt.pool.forget(self)
        link = attempt.link
        if link is not None and link.caller is self:
            link.release()

    # What its link and its pool say.

    def connected(self, link: Link) -> None:
        self._send(link, self._plane.clock())

    def unreachable(self) -> None:
        self._exchange.unhedged(Reason.CONNECT_FAILED, executed=False)

    def received(self, link: Link) -> None:
        attempt, reply = self.attempt, link.reply
        now = self._plane.clock()
        attempt.hear(link, now)
        if not reply.headed:
            return
        named = dict(reply.fields)
        reason = relay.verdict(reply, named)
        if reason is not None:
            attempt.report, attempt.reported = named.get(loads.REPORT), now
            self._exchange.unhedged(reason, executed=not relay.unexecuted(reply, named))
        elif answers(attempt, reply):
            self._exchange.outrun(link)

    def lost(self, link: Link, clean: bool) -> None:
        attempt = self.attempt
        if attempt.raced(self._plane.clock()):
            attempt.resent, attempt.link = True, None
            self._connect()
        else:
            self._exchange.unhedged(Reason.UPSTREAM_LOST)

    def garbled(self, link: Link) -> None:
        self._exchange.unhedged(Reason.BAD_UPSTREAM_REPLY)

    def broke(self) -> None:
        self._exchange.broke()


def answers(attempt: Attempt, reply: Reply) -> bool:
    """Whether the first byte of a body is here, or an answer that has none. A head alone decides nothing: engines send
    a stream's before they compute anything."""
    return attempt.first_byte is not None or reply.complete
