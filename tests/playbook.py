"""Conversations with the edge as scripts: bytes in, bytes out, no sockets and no sleeps.

    assert (
        Playbook(edge)
        >> client(b"POST /v1/chat/completions ...")
        << upstream("a", b"POST /v1/chat/completions")     # the edge has written this to worker a
        >> lost("a")
        << upstream("b", b"POST /v1/chat/completions")
        >> upstream_says("b", RESPONSE)
        << client_sees(b"HTTP/1.1 200 OK")
    )

`>>` does something to the edge, `<<` checks what it did. A step that does not hold says what was seen instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gateway.config import Limits
from gateway.edge.client import ClientConnection
from gateway.edge.plane import Plane
from gateway.edge.upstream import Link
from gateway.edge.wheel import TimerWheel
from gateway.ring import Ring
from gateway.telemetry import Telemetry
from policies.records import Worker
from policies.request import Outcome
from tests.fakes import Clock, Door, FakeKeys, FakePlaces, FakePools, FakeRoutes, FakeTransport
from tests.fleets import router, worker


def post(body: bytes, *fields: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    """A well-formed request."""
    lines = [b"POST %b HTTP/1.1" % path, b"Host: gateway", *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def reply(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A well-formed answer of a worker."""
    lines = [b"HTTP/1.1 %b" % status, *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def stream_head(*fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", *fields, b"Transfer-Encoding: chunked"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHAT = b'{"model":"chat","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"chat","stream":true,"messages":[{"role":"user","content":"hi"}]}'
ANSWER = b'{"choices":[],"usage":{"completion_tokens":7}}'
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
"""One token of a stream."""
LIMITS = Limits()


class Edge:
    """A plane over workers `a`, `b`, ... of equal merit but price: `a` is the cheapest, so the first choice."""

    def __init__(self, workers: str = "abc", *, limits: Limits = LIMITS, pure: bool = True, **plane: Any) -> None:
        self.clock = Clock()
        self.records = [self._record(index, name) for index, name in enumerate(workers)]
        self.router = router(*self.records)
        self.wheel = TimerWheel(self.clock)
        self.pools = FakePools(self.wheel, self.clock)
        self.telemetry = Telemetry()
        self.ring = Ring(wall=lambda: 0.0)
        self.places = FakePlaces()
        self.routes = FakeRoutes(pure)
        self.door = Door()
        self.clients: list[tuple[ClientConnection, FakeTransport]] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        fields: dict[str, Any] = {
            "router": self.router,
            "routes": self.routes,
            "keys": FakeKeys(),
            "locator": self.places,
            "steering": self.places,
            "telemetry": self.telemetry,
            "ring": self.ring,
            "limits": limits,
            "upstream": self.pools,
            "wheel": self.wheel,
            "clock": self.clock,
            "rng": random.Random(1),
            "strict": True,
        }
        self.plane = Plane(**(fields | plane))
        self._listen_to_reports()

    @staticmethod
    def _record(index: int, name: str) -> Worker:
        return worker(name, address=f"10.0.0.{index + 1}:9000", usd_per_hour=1.0 + index)

    def _listen_to_reports(self) -> None:
        report = self.router.report

        def heard(dispatch: Any, outcome: Outcome, now: float) -> None:
            report(dispatch, outcome, now)  # raises on a second report of one dispatch
            self.outcomes.append((dispatch.node.worker.id, outcome))

        self.router.report = heard  # type: ignore[method-assign]

    @property
    def unreported(self) -> int:
        """Dispatches nobody has reported."""
        return sum(state.in_flight for state in self.router.fleet.workers.values())

    def connect(self, peer: str = "127.0.0.1") -> FakeTransport:
        """A new client; the last one connected is the one a script speaks for."""
        connection = ClientConnection(self.plane, self.door)
        transport = FakeTransport((peer, 50000))
        self.clients.append((connection, transport))
        connection.connection_made(transport)
        return transport

    @property
    def client(self) -> ClientConnection:
        if not self.clients:
            self.connect()
        return self.clients[-1][0]

    @property
    def transport(self) -> FakeTransport:
        if not self.clients:
            self.connect()
        return self.clients[-1][1]

    def link(self, name: str) -> Link:
        """The newest link to a worker."""
        address = next(record.address for record in self.records if record.id == name)
        return [link for link in self.pools.links if link._pool.address == address][-1]

    def wire(self, name: str) -> FakeTransport:
        transport = self.link(name).transport
        assert isinstance(transport, FakeTransport)
        return transport

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        """Let the clock and the wheel go on, in small steps."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + step)
            self.wheel.advance(self.clock.now)

    def use(self, **limits: Any) -> None:
        self.plane.limits = msgspec.structs.replace(self.plane.limits, **limits)


class Step(NamedTuple):
    """One line of a script."""

    name: str
    run: Callable[[Edge], None]


class Playbook:
    """Runs its steps as they are written."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __rshift__(self, step: Step) -> Playbook:
        step.run(self._edge)
        return self

    __lshift__ = __rshift__


# What can be done to the edge.


def client(data: bytes) -> Step:
    """The client sends."""
    return Step("client", lambda edge: edge.client.data_received(data))


def client_leaves() -> Step:
    def leave(edge: Edge) -> None:
        edge.client.eof_received()
        edge.client.connection_lost(None)

    return Step("client leaves", leave)


def upstream_says(name: str, data: bytes) -> Step:
    """A worker sends."""
    return Step(f"{name} says", lambda edge: edge.link(name).data_received(data))


def lost(name: str, clean: bool = False) -> Step:
    """A worker's connection is gone: reset, or closed cleanly."""
    return Step(f"{name} lost", lambda edge: edge.link(name).connection_lost(None if clean else ConnectionResetError()))


def refusing(name: str) -> Step:
    """From now on a worker accepts no connections."""

    def refuse(edge: Edge) -> None:
        edge.pools.refusing.add(next(record.address for record in edge.records if record.id == name))

    return Step(f"{name} refuses", refuse)


def seconds(duration: float) -> Step:
    """Time passes."""
    return Step(f"{duration} s", lambda edge: edge.pass_time(duration))


# What the edge is expected to have done.


def upstream(name: str, *parts: bytes) -> Step:
    """Worker `name` has been sent something that has all of `parts`."""

    def check(edge: Edge) -> None:
        sent = edge.wire(name).take()
        assert sent, f"worker {name} was sent nothing; links: {edge.pools!r}"
        for part in parts:
            assert part in sent, f"{part!r} not in what worker {name} was sent:\n{sent.decode('latin-1')}"

    return Step(f"to {name}", check)


def client_sees(*parts: bytes, closed: bool | None = None) -> Step:
    """The client has been sent something that has all of `parts`, in this order."""

    def check(edge: Edge) -> None:
        seen = edge.transport.take()
        at = 0
        for part in parts:
            found = seen.find(part, at)
            assert found >= 0, f"{part!r} not in what the client saw (or not in order):\n{seen.decode('latin-1')}"
            at = found + len(part)
        if closed is not None:
            assert edge.transport.closed is closed or edge.transport.eof is closed

    return Step("client sees", check)


def client_sees_exactly(data: bytes) -> Step:
    def check(edge: Edge) -> None:
        assert edge.transport.take() == data

    return Step("client sees exactly", check)


def client_sees_nothing() -> Step:
    return client_sees_exactly(b"")


def cancelled(name: str) -> Step:
    """The connection to a worker was dropped: its work is not wanted any more."""

    def check(edge: Edge) -> None:
        assert edge.wire(name).aborted, f"{edge.link(name)!r} is still open"

    return Step(f"{name} cancelled", check)


def reported(name: str, reason: Any) -> Step:
    """The last settled attempt: where, and how it ended."""

    def check(edge: Edge) -> None:
        worker_id, outcome = edge.outcomes[-1]
        assert (worker_id, outcome.reason) == (name, reason)

    return Step("reported", check)
