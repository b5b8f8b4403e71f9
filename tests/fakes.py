"""A clock to turn by hand and transports that only remember: the edge tested byte by byte, without a socket or a loop.

`tests/playbook.py` makes scripts of them.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from gateway.body import Body
from gateway.edge.upstream import Link, Pool, Pools
from policies.reason import Reason
from policies.request import Request, Shed


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeTransport(asyncio.Transport):
    """Remembers what was written and done to it. Its protocol hears of a close only when the test says so."""

    def __init__(self, peer: tuple[str, int] = ("127.0.0.1", 50000)) -> None:
        super().__init__({"peername": peer})
        self.sent = bytearray()
        self.closed = False
        self.aborted = False
        self.eof = False
        self.reading = True
        self.unsent = 0
        self.high_water = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof, "written after the end"
        if not self.closed:
            self.sent += data

    def take(self) -> bytes:
        """What was written since the last time."""
        sent = bytes(self.sent)
        self.sent.clear()
        return sent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water = high or 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading


class FakePools(Pools):
    """Connections that are made at once, are refused, or wait until the test says `complete`."""

    refusing: set[str]
    """Addresses that do not accept."""
    waiting: list[Pool] | None
    """Set to a list to hold connection attempts back."""
    links: list[Link]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refusing = set()
        self.waiting = None
        self.links = []

    def dial(self, pool: Pool, seconds: float) -> None:
        if self.waiting is not None:
            self.waiting.append(pool)
        else:
            self.complete(pool)

    def complete(self, pool: Pool) -> None:
        if pool.address in self.refusing:
            pool.failed()
            return
        link = Link(pool)
        link.connection_made(FakeTransport())
        self.links.append(link)
        pool.opened(link)


class FakePlan:
    """What is asked of one route for everything: the body's model, the headers' deadline."""

    def __init__(self, asked: Any, defaults: dict[str, Any]) -> None:
        self._asked = asked
        self._defaults = defaults
        self.answers: list[int] = []
        """Tokens of those there were."""

    def suits(self, routes: Any, body: Body, country: str | None) -> bool:
        return False

    def request(self, body: Body, request_id: str, arrived: float, client_rtt: float, raw: bytes = b"") -> Request:
        fields: dict[str, Any] = {"stream": body.stream} | self._defaults
        if self._asked.deadline is not None:
            fields["deadline"] = arrived + self._asked.deadline - client_rtt
        if body.kind.generates:
            fields["output_tokens"] = 10.0
        return Request(id=request_id, model=body.model, policy="house", arrived=arrived, **fields)

    def answered(self, body: Body, tokens: int) -> None:
        self.answers.append(tokens)


class FakeRoutes:
    """One route for everything."""

    def __init__(self, pure: bool = True) -> None:
        self._pure = pure
        self.defaults: dict[str, Any] = {}

    def plan(self, asked: Any, body: Body, client: Any, country: str | None) -> Any:
        return FakePlan(asked, self.defaults)

    def pure(self, model: str) -> bool:
        return self._pure


class FakeKeys:
    """Open, but for the key `Bearer bad`."""

    def client(self, authorization: bytes | None, loopback: bool, api_key: bytes | None = None) -> Any:
        if authorization == b"Bearer bad":
            return Shed(Reason.INVALID_API_KEY)
        return SimpleNamespace(id="anyone", tenant="")


class FakePlaces:
    """Stands for locator and steering: nobody knows where anybody is."""

    def __init__(self) -> None:
        self.nearest: bytes | None = None
        self.asked: list[tuple[str, bytes | None]] = []

    def locate(self, peer: str, forwarded: bytes | None) -> Any:
        self.asked.append((peer, forwarded))
        return SimpleNamespace(country=None)

    def header(self, place: Any) -> bytes | None:
        return self.nearest


class Door:
    """A listener that lets everybody in, or nobody."""

    def __init__(self, admits: bool = True) -> None:
        self.admits = admits
        self.inside: set[Any] = set()

    def opened(self, connection: Any) -> Shed | None:
        self.inside.add(connection)
        return None if self.admits else Shed(Reason.OVERLOADED)

    def closed(self, connection: Any) -> None:
        self.inside.discard(connection)
