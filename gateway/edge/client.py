"""One client's connection: bytes become complete requests, served one by one in the order they came.

It keeps the limits (head, body, rate, silence, pipelining) and the order of answers. Invariants: nothing incomplete
and nothing the gate refuses reaches an exchange; after a refusal no further byte is parsed, and the connection
closes. The parser only collects; requests start when it is off the stack. Next: gate.py, exchange.py.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from gateway.edge import familiar, gate, peer, wire
from gateway.edge.call import Call
from gateway.edge.ending import Ending, Watch
from gateway.edge.exchange import Exchange
from gateway.edge.familiar import Familiar
from gateway.edge.flow import Outlet
from gateway.edge.gate import Fields, Head
from gateway.edge.plane import Plane
from gateway.edge.wheel import Alarm
from gateway.openai import errors, headers
from policies.reason import TABLE, Reason
from policies.request import Shed

if TYPE_CHECKING:
    from gateway.auth import Client

log = logging.getLogger(__name__)

LINGER = 2.0
"""Seconds we go on reading after a refusal: closing with unread bytes would reset the connection, and the client might
never see why (RFC 9112 section 9.6)."""
BODY_GRACE = 10.0
"""Seconds a body may take beyond what its minimum rate allows."""
MAX_TRAILERS = 16
LESSONS = 4
"""Heads learnt per connection; a client that has not repeated itself by then does not."""
MAX_WAITING_BYTES = 1024 * 1024
"""Bodies of pipelined requests held for their turn; beyond it, the client is not read."""


class Phase(enum.Enum):
    """What the next byte belongs to."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    CLOSED = enum.auto()
    """Nothing more is read; after a refusal, what comes is thrown away until the client stops or `LINGER` ends."""


IDLE, HEAD, BODY, CLOSED = Phase


class StopParsingError(Exception):
    """Stops the parser; the connection knows why."""


class Door(Protocol):
    """Where connections come from: it counts them."""

    def opened(self, connection: ClientConnection) -> Shed | None: ...

    def closed(self, connection: ClientConnection) -> None: ...


class ClientConnection(asyncio.Protocol, Alarm):
    """One accepted connection."""

    __slots__ = (
        "_arrived",
        "_body",
        "_client",
        "_continue",
        "_door",
        "_embodied",
        "_exchange",
        "_familiar",
        "_fields",
        "_fresh",
        "_head",
        "_keep",
        "_lessons",
        "_loopback",
        "_outlet",
        "_parser",
        "_peer",
        "_phase",
        "_plane",
        "_refusal",
        "_seen",
        "_serving",
        "_size",
        "_target",
        "_throttled",
        "_transport",
        "_unembodied",
        "_waiting",
        "_watch",
    )

    _transport: asyncio.Transport
    _outlet: Outlet

    def __init__(self, plane: Plane, door: Door) -> None:
        super().__init__()
        # Per process.
        self._plane = plane
        self._door = door
        # Per connection.
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self._loopback = False
        self._phase = IDLE
        self._waiting: deque[Call] = deque()
        self._exchange: Exchange | None = None
        self._watch = Watch()
        self._serving = False
        self._throttled = False
        self._familiar: Familiar | None = None
        self._lessons = LESSONS
        self._refusal: Shed | None = None
        """Why the connection will close, once all before it is answered."""
        # Per request.
        self._arrived = 0.0
        self._seen = 0
        self._embodied = 0
        self._unembodied = 0
        """Bytes received since the body last grew: trailers and chunk extensions, which nothing else bounds."""
        self._fresh = False
        self._target = b""
        self._fields: Fields = []
        self._head: Head | None = None
        self._client: Client | None = None
        self._keep = True
        self._continue = False
        self._body: bytes | bytearray = b""

    def __repr__(self) -> str:
        return f"<ClientConnection {self._phase.name} waiting {len(self._waiting)} {self._exchange!r}>"

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._outlet = Outlet(self._transport)
        self._peer = peer.address(transport)
        self._loopback = peer.is_loopback(self._peer)
        refused = self._door.opened(self)
        if refused is None:
            self._plane.wheel.set(self, self._plane.clock() + self._plane.limits.idle_s)
        else:
            self._refuse(refused)
            self._settle()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self._phase is CLOSED:
            return
        if self._exchange is None and self._recognise(data):
            return
        self._parse(data)
        self._settle()

    def _recognise(self, data: bytes) -> bool:
        """Start what is one whole request whose head is known, when nothing else is going on."""
        known = self._familiar
        if known is None or self._phase is not IDLE or self._waiting:
            return False
        raw = known.body(data, self._plane)
        if raw is None:
            return False
        self._arrived = now = self._plane.clock()
        self._start(Call(known.head, raw, known.client, self._peer, now, True))
        return True

    def _parse(self, data: bytes) -> None:
        begins = self._phase is IDLE and not self._waiting
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(Shed(Reason.BAD_FRAMING))  # unless a callback has said why
        if self._phase is not IDLE:
            self._incomplete(len(data))
        elif begins and self._refusal is None and len(self._waiting) == 1 and self._lessons:
            self._lessons -= 1
            whole = self._waiting[0]
            if whole.keep and self._client is not None:
                self._familiar = familiar.learn(data, whole.head, self._client, self._plane)

    def eof_received(self) -> bool | None:
        """The client sends no more. Mid-request that is a framing error; otherwise it has left."""
        if self._phase in (HEAD, BODY) and self._refusal is None and self._exchange is None:
            self._refuse(Shed(Reason.BAD_FRAMING))
            self._settle()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = CLOSED
        self._waiting.clear()
        self._plane.wheel.clear(self)
        if self._exchange is not None:
            self._exchange.cancel()
        self._plane.wheel.clear(self._watch)
        self._door.closed(self)

    def pause_writing(self) -> None:
        self._outlet.pause()
        self._plane.wheel.set(self, self._plane.clock() + self._plane.limits.write_stall_s)

    def resume_writing(self) -> None:
        self._outlet.resume()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._arrived = self._plane.clock()
        self._phase = HEAD
        self._fresh = True
        self._seen = self._embodied = self._unembodied = 0
        self._target = b""
        self._fields = []
        self._head = None
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._plane.limits.url_bytes:
            self._stop(Reason.HEADERS_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))  # the hottest line: what it may weigh is checked between reads

    def on_headers_complete(self) -> None:
        plane, parser = self._plane, self._parser
        head = Head(parser.get_method(), self._target, parser.get_http_version(), self._fields)
        self._fields = []  # trailers, from here on: dropped, since nothing we forward has a place for them
        self._phase = BODY
        reason = gate.refusal(head, plane.limits, plane.hosts)
        if reason is not None:
            self._stop(reason)
        named = head.named
        client = plane.keys.client(named.get(b"authorization"), self._loopback, named.get(b"x-api-key"))
        if isinstance(client, Shed):
            self._refuse(client)
            raise StopParsingError
        self._head = head
        self._client = client
        self._keep = head.modern and parser.should_keep_alive()
        self._continue = head.modern and b"expect" in named

    def on_body(self, data: bytes) -> None:
        body = self._body
        if not body:
            self._body = data
        elif isinstance(body, bytearray):
            body += data
        else:
            self._body = body = bytearray(body)
            body += data
        if len(self._body) > self._plane.limits.body_bytes:
            self._stop(Reason.BODY_TOO_LARGE)

    def on_message_complete(self) -> None:
        self._phase = IDLE
        self._continue = False
        if len(self._fields) > MAX_TRAILERS:
            self._stop(Reason.HEADERS_TOO_LARGE)
        assert self._head is not None
        assert self._client is not None
        body = self._body
        raw = body if isinstance(body, bytes) else bytes(body)
        self._waiting.append(Call(self._head, raw, self._client, self._peer, self._arrived, self._keep))
        if len(self._waiting) > self._plane.limits.pipelined:
            self._stop(Reason.BAD_REQUEST)

    def _stop(self, reason: Reason) -> None:
        self._refuse(Shed(reason))
        raise StopParsingError

    # Between reads.

    def _incomplete(self, received: int) -> None:
        """A request has begun and is not all here: bound what it may weigh and take."""
        plane = self._plane
        if self._phase is HEAD:
            if not self._fresh:  # of the first piece, some may belong to the request before
                self._seen += received
            self._fresh = False
            if self._seen > plane.limits.head_bytes:
                self._refuse(Shed(Reason.HEADERS_TOO_LARGE))
            plane.wheel.set(self, self._arrived + plane.limits.header_timeout_s)
        elif self._phase is BODY:
            self._unembodied = 0 if len(self._body) > self._embodied else self._unembodied + received
            self._embodied = len(self._body)
            if len(self._fields) > MAX_TRAILERS or self._unembodied > plane.limits.head_bytes:
                self._refuse(Shed(Reason.HEADERS_TOO_LARGE))
            plane.wheel.set(self, self._body_due())

    def _body_due(self) -> float:
        """When the body is too slow, given what has come of it."""
        limits = self._plane.limits
        grace = limits.header_timeout_s + BODY_GRACE
        return self._arrived + grace + len(self._body) / limits.body_bytes_per_s

    def _settle(self) -> None:
        """Start what can be started, answer what must be refused, in order."""
        if self._serving:
            return
        self._serving = True
        while self._waiting and self._exchange is None and self._phase is not CLOSED:
            self._start(self._waiting.popleft())
        self._serving = False
        if self._waiting or self._throttled:
            self._throttle()
        if self._exchange is not None or self._phase is CLOSED:
            return
        if self._refusal is not None:
            self._answer_refusal(self._refusal)
        elif self._continue and self._phase is BODY:
            self._continue = False
            self._outlet.write(wire.CONTINUE)

    def _start(self, call: Call) -> None:
        plane = self._plane
        if plane.measure_clients:
            call.rtt = peer.round_trip(self._transport)
        self._exchange = exchange = Exchange(plane, self._outlet, self._watch, call, self._answered)
        try:
            exchange.start()
        except Exception:
            log.exception("%r failed", exchange)
            exchange.broke()

    def _answered(self, exchange: Ending, now: float) -> None:
        """The exchange has given the client its ending."""
        self._exchange = None
        if self._phase is CLOSED:
            return
        if not exchange.answer.keep:
            self._close()
            return
        if self._phase is IDLE:
            self._plane.wheel.set(self, now + self._plane.limits.idle_s)
        if self._waiting or self._refusal is not None or self._continue:
            self._settle()

    def _throttle(self) -> None:
        """Stop reading a client that has sent far ahead; it is the only time its leaving goes unnoticed."""
        ahead = sum(len(call.raw) for call in self._waiting) > MAX_WAITING_BYTES
        if ahead != self._throttled and self._phase is not CLOSED:
            self._throttled = ahead
            (self._transport.pause_reading if ahead else self._transport.resume_reading)()

    # Endings.

    def _refuse(self, shed: Shed) -> None:
        """No further byte is understood; the first reason counts."""
        if self._refusal is None:
            self._refusal = shed

    def _answer_refusal(self, shed: Shed) -> None:
        """Say why, and close: after it nobody can know where the next request would begin."""
        plane = self._plane
        plane.telemetry.refused(shed.reason)
        status = TABLE[shed.reason].http
        plane.telemetry.finished(status, plane.clock() - self._arrived if self._arrived else 0.0)
        request_id, path = headers.make_id(plane.rng), self._target
        self._outlet.write(errors.answer(shed, request_id, path=path, close=True, allow="GET, POST"))
        self._phase = CLOSED
        if self._transport.can_write_eof():
            self._transport.write_eof()
        plane.wheel.set(self, plane.clock() + LINGER)

    def _close(self) -> None:
        """Finish writing, then end the connection."""
        self._phase = CLOSED
        self._transport.close()
        self._plane.wheel.set(self, self._plane.clock() + self._plane.limits.write_stall_s)

    def drain(self) -> None:
        """No further request after those that have begun."""
        if self._exchange is not None:
            self._exchange.answer.keep = False
        elif self._phase is IDLE and not self._waiting:
            self._close()

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()

    def ring(self, now: float) -> None:
        """The alarm: the client has been silent, slow or unreading for too long."""
        plane = self._plane
        if self._phase is CLOSED:
            self.abort()
        elif self._outlet.paused:
            plane.telemetry.count("connections.write_stall")
            self.abort()
        elif self._phase is HEAD:
            self._timed_out("connections.header_timeout")
        elif self._phase is BODY:
            due = self._body_due()
            if now < due:
                plane.wheel.set(self, due)
            else:
                self._timed_out("connections.body_timeout")
        elif self._exchange is None:
            plane.telemetry.count("connections.idle_timeout")
            self._close()

    def _timed_out(self, counter: str) -> None:
        self._plane.telemetry.count(counter)
        self._refuse(Shed(Reason.REQUEST_TIMEOUT))
        self._settle()
