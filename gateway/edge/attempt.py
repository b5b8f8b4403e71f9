"""One dispatch at work: the head that is sent, how long it may take, and its settlement, exactly once.

`limit` is when the attempt must be over, `patience` how long its worker may be silent. Durations in seconds, instants
on the plane's clock. exchange.py drives it and decides what follows from its end.
"""

from __future__ import annotations

import msgspec

from gateway.edge import relay, wire
from gateway.edge.gate import Head
from gateway.edge.upstream import Link, Pool
from gateway.openai import headers
from policies.reason import Reason
from policies.records import NO_TIMINGS, Timings
from policies.request import INFINITE, Dispatch, Outcome, Status
from policies.router import Router

RTTS_TO_CONNECT = 3.0
"""A far node may take this many round trips to accept: one is the least, and a lost SYN is not worth waiting for."""
SPREADS = 4.0
"""Standard deviations beyond its predicted time after which silence means that a worker is stuck."""
SILENCE = 2.0
"""Seconds of silence always granted (predictions for a cold node are poor), where the budget has twice as many."""
LONGER_ANSWERS = 3.0
"""How many times its predicted decoding a unary answer may take on top: its worker is silent all the while."""
STALL = 30.0
"""Seconds between two reads of one answer after which its worker counts as lost (faults.md section 5)."""
LONGEST = 600.0
"""Seconds an attempt without a deadline of its own may take: the default timeout of the openai client."""
RESTED = 1.0
"""Seconds a link must have been idle for its loss to be the worker's idle timeout: none is shorter, and under load a
loss is a death, of which the router must hear at once."""
STALE_WINDOW = 0.05
"""Seconds, beside three round trips, within which a loss on a reused link may be the worker's idle timeout."""
LONGEST_ANNOUNCED_MS = 86_400_000
"""Milliseconds of budget a worker is told at most."""

BEST_EFFORT = Status.BEST_EFFORT
NO_FIELDS: dict[bytes, bytes] = {}
NOT_YET: tuple[None, bytes] = (None, b"")
OPENINGS = 64
"""Openings of worker requests kept per client head, of about 300 bytes each: more than a price tier has nodes."""
ROUTING_FIELDS = frozenset(row.name for row in headers.TABLE)
"""Headers that spoke to us; a worker gets what it needs of them in our own words."""
WITHHELD = wire.NOT_FORWARDED | ROUTING_FIELDS


class Attempt(msgspec.Struct, eq=False):
    """A dispatch, the link it runs on, and what has been seen of its answer."""

    router: Router
    """The one that decided; a reload may have put another in its place since."""
    dispatch: Dispatch
    pool: Pool
    limit: float
    hedge_at: float = INFINITE
    """When to ask for a hedge, if it is silent yet."""
    link: Link | None = None
    sent: float = 0.0
    """When it was written, or will have been at the latest."""
    resent: bool = False
    """Whether it was written a second time, after losing the idle-timeout race."""
    heard: float = 0.0
    """When the worker last said anything."""
    first_byte: float | None = None
    named: dict[bytes, bytes] = NO_FIELDS
    """The reply's fields by name."""
    events: relay.Events | None = None
    report: bytes | None = None
    """What it says of its worker's load, until that is learned..."""
    reported: float = 0.0
    """...and when that came."""
    outcome: Outcome | None = None

    def __repr__(self) -> str:
        return (
            f"<Attempt {self.dispatch.attempt} at {self.dispatch.node.worker.id}{' settled' if self.outcome else ''}>"
        )

    @property
    def connect_timeout(self) -> float:
        """Seconds this node's worker gets to accept a connection."""
        return RTTS_TO_CONNECT * self.dispatch.eta.network

    def raced(self, now: float) -> bool:
        """Whether a loss at `now`, so soon and on a rested link, may be the worker closing an idle connection."""
        link = self.link
        if link is None or link.used < 2 or link.reply.began or self.resent:
            return False
        if self.sent - link.idle_since < RESTED:
            return False
        return now - self.sent <= STALE_WINDOW + self.connect_timeout

    @property
    def patience(self) -> float:
        """Seconds of silence after which another worker should be tried, as far as the budget lets one be tried."""
        dispatch = self.dispatch
        eta = dispatch.eta
        expected = eta.first_token if dispatch.request.stream else eta.total + LONGER_ANSWERS * eta.decode
        return max(min(expected + SPREADS * eta.spread, self.limit - dispatch.at), self.least_patience)

    @property
    def least_patience(self) -> float:
        """Seconds of silence granted whatever was predicted: cheap to know, so the alarm is set to this at first."""
        half = (self.limit - self.dispatch.at) / 2
        return half if half < SILENCE else SILENCE

    def hear(self, link: Link, now: float) -> None:
        """The worker said something."""
        self.heard = now
        if self.first_byte is None and link.reply.size:
            self.first_byte = now - self.dispatch.at

    def settle(
        self,
        reason: Reason | None,
        now: float,
        executed: bool = True,
        timings: Timings = NO_TIMINGS,
        output_tokens: int | None = None,
        held_up: bool = False,
    ) -> Outcome:
        """Tell the router what came of it. Asserts that nobody has before."""
        assert self.outcome is None, self
        dispatch, link = self.dispatch, self.link
        reply = None if link is None else link.reply
        self.outcome = outcome = Outcome(
            reason=reason,
            executed=executed,
            client_error=reason is None and reply is not None and reply.status >= 400,
            first_byte=self.first_byte,
            total=now - dispatch.at,
            queue=timings.queue,
            prefill=timings.prefill,
            decode=timings.decode,
            accelerator=timings.accel,
            output_tokens=output_tokens,
            reply_bytes=0 if reply is None else reply.size,
            held_up=held_up,
        )
        self.router.report(dispatch, outcome, now)
        return outcome

    def head(self, client: Head, path: bytes, length: int, request_id: bytes, traceparent: bytes, now: float) -> bytes:
        """The request head for the worker: our own framing and words, and the client's end-to-end fields."""
        dispatch = self.dispatch
        node, attempt = dispatch.node, dispatch.attempt
        endpoint, opening = client.openings.get(node, NOT_YET)
        if endpoint is not node.endpoint or path is not client.target:
            opening = self._opening(client, path)
        if attempt > 1:
            opening += wire.ATTEMPT + b"%d" % attempt
        elif dispatch.status is not BEST_EFFORT and node.worker.variant_header:
            columns = node.columns
            if columns is not None and columns.in_service > 1:  # alone, it is the best there is, and is to try
                wait = dispatch.eta.wait
                opening += wire.EXPECTED_WAIT + b"%d" % (wait * 1e3) if wait else wire.NO_WAIT
        if dispatch.hedge_at < INFINITE or dispatch.hedge:
            opening += wire.HEDGE + request_id
        first = dispatch.request.first_token_deadline
        if now < first < INFINITE:
            opening += wire.FIRST_TOKEN + b"%d" % ((first - now) * 1e3)
        if traceparent:
            opening += wire.TRACEPARENT + traceparent
        left = (self.limit - now) * 1e3
        budget = round(left) if 1.0 < left < LONGEST_ANNOUNCED_MS else 1 if left <= 1.0 else LONGEST_ANNOUNCED_MS
        return wire.REQUEST_ENDING % (opening, request_id, budget, budget, length)

    def _opening(self, client: Head, path: bytes) -> bytes:
        """The head up to what differs from request to request: written once per node for a head that is repeated."""
        node = self.dispatch.node
        fields = client.passed_on
        if fields is None:
            client.passed_on = fields = _passed_on(client)
        variant = wire.VARIANT + node.endpoint.variant.encode() if node.worker.variant_header else b""
        lines = (wire.POST, path, wire.REQUEST_VERSION, self.pool.host, fields, variant, wire.LOAD_WANTED)
        opening = b"".join(lines)
        if path is client.target:
            if len(client.openings) >= OPENINGS:
                client.openings.clear()
            client.openings[node] = node.endpoint, opening
        return opening


def _passed_on(client: Head) -> bytes:
    """The client's end-to-end fields, as they go to a worker: none of ours, none that `Connection` names."""
    connection = b",".join([value.lower() for name, value in client.fields if name == b"connection"])
    withheld = WITHHELD.union(token.strip() for token in connection.split(b",")) if connection else WITHHELD
    return b"".join(
        [
            b"\r\n%b: %b" % (name, value)
            for name, value in client.fields
            if name not in withheld and not name.startswith(wire.NOT_FORWARDED_PREFIXES)
        ]
    )


def limit(dispatch: Dispatch) -> float:
    """When it must be over: at the deadline; best effort was never promised to make that, and gets its time."""
    deadline = dispatch.request.deadline
    if deadline == INFINITE:
        deadline = dispatch.at + LONGEST
    if dispatch.status is BEST_EFFORT:
        return max(deadline, dispatch.at + dispatch.eta.total + dispatch.request.patience)
    return deadline
