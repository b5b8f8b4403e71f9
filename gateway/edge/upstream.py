"""Connections to workers: `Link` is one socket, `Pool` keeps those of one address, `Pools` all of them.

Taking a link reserves it in the same step, so two exchanges never share one; the most recently used goes first, so
that the others may time out. A link whose reply was not whole, not well framed or not wanted is never used again.
The parser only collects; the exchange acts once per read, when the parser is off the stack. Next: exchange.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools

from gateway.edge import wire
from gateway.edge.reply import Reply
from gateway.edge.wheel import Alarm, TimerWheel

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""How often idle links are looked through; an idle timeout is late by up to this, well under a worker's 75 s."""


class Caller(Protocol):
    """What a link and a pool tell the exchange they work for."""

    __slots__ = ()

    def connected(self, link: Link) -> None: ...

    def unreachable(self) -> None: ...

    def received(self, link: Link) -> None: ...

    def lost(self, link: Link, clean: bool) -> None: ...

    def garbled(self, link: Link) -> None: ...

    def broke(self) -> None: ...


def tell(caller: Caller, event: Callable[..., None], *args: Any) -> None:
    """Pass an event on; a fault of ours in it ends that exchange, not the connection of another."""
    try:
        event(*args)
    except Exception:
        log.exception("%r failed", caller)
        caller.broke()


class Link(asyncio.Protocol):
    """One connection to a worker: idle in its pool, or working for exactly one exchange."""

    __slots__ = ("_pool", "caller", "idle_since", "reply", "transport", "used")

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.caller: Caller | None = None
        self.reply = Reply()
        self.idle_since = 0.0
        self.used = 0
        """Requests sent on it; above one, a loss may be the worker's idle timeout racing with us."""

    def __repr__(self) -> str:
        return f"<Link {self._pool.address} {'busy' if self.caller else 'idle'} used {self.used}>"

    def send(self, caller: Caller, head: bytes, body: bytes) -> None:
        """Write one request; the reply is the caller's."""
        self.caller = caller
        self.used += 1
        self.reply.reset()
        if len(body) < wire.JOIN_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def release(self) -> None:
        """The exchange has what it needs: back into the pool, or closed if it can't be used again."""
        self.caller = None
        reply, transport = self.reply, self.transport
        if reply.complete and reply.keep_alive and not (transport.is_closing() or transport.get_write_buffer_size()):
            self._pool.put(self)
        else:
            self.close()

    def close(self) -> None:
        """Drop it at once, with all that is unsent: this is how a worker learns that its work is cancelled."""
        self.caller = None
        self._pool.drop(self)
        self.transport.abort()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self.reply.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._garbled()
            return
        reply, caller = self.reply, self.caller
        if caller is None:
            self.close()
        elif not reply.headed and reply.heavy(len(data)):
            self._garbled()
        else:
            try:
                caller.received(self)
            except Exception:
                log.exception("%r failed", caller)
                caller.broke()

    def _garbled(self) -> None:
        caller = self.caller
        self.close()
        if caller is not None:
            tell(caller, caller.garbled, self)

    def connection_lost(self, exc: Exception | None) -> None:
        caller, self.caller = self.caller, None
        self._pool.drop(self)
        if caller is not None:
            tell(caller, caller.lost, self, exc is None)


class Pool:
    """The links to one address, and the exchanges that wait for one."""

    __slots__ = ("_idle", "_links", "_pools", "_seconds", "_waiting", "address", "connecting", "host")

    def __init__(self, pools: Pools, address: str) -> None:
        self._pools = pools
        self.address = address
        self.host = address.encode()
        self._links: set[Link] = set()
        self._idle: dict[Link, None] = {}
        """Oldest first."""
        self._waiting: dict[Caller, None] = {}
        self.connecting = 0
        self._seconds = pools.connect_timeout
        """How long the last one to ask grants a connection attempt."""

    def __repr__(self) -> str:
        busy = len(self._links) - len(self._idle)
        return (
            f"<Pool {self.address} idle {len(self._idle)} busy {busy} "
            f"connecting {self.connecting} waiting {len(self._waiting)}>"
        )

    @property
    def unused(self) -> bool:
        return not (self._links or self.connecting or self._waiting)

    def take(self) -> Link | None:
        """An idle link, now the caller's; None when there is none."""
        idle = self._idle
        while idle:
            link = idle.popitem()[0]
            if not link.transport.is_closing():
                self._pools.count("upstream.reused")
                return link
        return None

    def put(self, link: Link) -> None:
        """A link is free: to whoever waits longest, else idle."""
        if self._waiting:
            caller = self._next()
            tell(caller, caller.connected, link)
        else:
            link.idle_since = self._pools.clock()
            self._idle[link] = None

    def drop(self, link: Link) -> None:
        """A link is gone, or about to be."""
        if link in self._links:
            self._links.discard(link)
            self._idle.pop(link, None)
            self._pools.count("upstream.closed")
            if len(self._waiting) > self.connecting:  # they waited for a link like this one to be free
                self._dial()

    def connect(self, caller: Caller, seconds: float) -> None:
        """Let `caller` have the next link: one being made for it, or one released before that."""
        self._waiting[caller] = None
        self._seconds = seconds
        self._dial()

    def _dial(self) -> None:
        """Make one more connection, if there may be one more."""
        if len(self._links) + self.connecting < self._pools.max_connections:
            self.connecting += 1
            self._pools.dial(self, self._seconds)

    def opened(self, link: Link) -> None:
        """A connection was made."""
        if link.transport.is_closing():  # and lost before we heard of it
            self.failed()
            return
        self._pools.count("upstream.opened")
        self.connecting -= 1
        self._links.add(link)
        self.put(link)

    def failed(self) -> None:
        """A connection could not be made."""
        self._pools.count("upstream.failed")
        self.connecting -= 1
        if len(self._waiting) > self.connecting:  # else whoever it was for has found another link
            caller = self._next()
            tell(caller, caller.unreachable)

    def forget(self, caller: Caller) -> None:
        """The caller waits no longer."""
        self._waiting.pop(caller, None)

    def _next(self) -> Caller:
        caller = next(iter(self._waiting))
        del self._waiting[caller]
        return caller

    def sweep(self, before: float) -> None:
        """Close the links that have been idle since before `before`."""
        while self._idle:
            link = next(iter(self._idle))
            if link.idle_since > before:
                return
            link.close()

    def close(self) -> None:
        for link in list(self._links):
            link.close()


def _ignore(name: str) -> None:
    """Nobody counts."""


class Pools(Alarm):
    """All pools of one gateway process, by address."""

    __slots__ = (
        "_idle_seconds",
        "_pools",
        "_source",
        "_tasks",
        "_wheel",
        "clock",
        "connect_timeout",
        "count",
        "max_connections",
    )

    def __init__(
        self,
        wheel: TimerWheel,
        clock: Callable[[], float],
        *,
        source: str | None = None,
        connect_timeout: float = 0.3,
        idle_seconds: float = 60.0,
        max_connections: int = 1024,
    ) -> None:
        super().__init__()
        self._wheel = wheel
        self.clock = clock
        self._source = source
        self.connect_timeout = connect_timeout
        """Least seconds to wait for a connection; the exchange grants far nodes more."""
        self._idle_seconds = idle_seconds
        self.max_connections = max_connections
        """Per address."""
        self._pools: dict[str, Pool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.count: Callable[[str], None] = _ignore
        """Told of every connection opened, reused, closed or failed; the plane puts its telemetry here."""
        wheel.set(self, clock() + SWEEP_SECONDS)

    def __repr__(self) -> str:
        return f"<Pools {list(self._pools.values())}>"

    def of(self, address: str) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(self, address)
        return pool

    def ring(self, now: float) -> None:
        for address, pool in list(self._pools.items()):
            pool.sweep(now - self._idle_seconds)
            if pool.unused:
                del self._pools[address]
        self._wheel.set(self, now + SWEEP_SECONDS)

    def dial(self, pool: Pool, seconds: float) -> None:
        """Make one connection for the pool, which is told how it went. A task per connection, never per request."""
        task = asyncio.get_running_loop().create_task(self._dial(pool, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, pool: Pool, seconds: float) -> None:
        host, _, port = pool.address.rpartition(":")
        try:
            async with asyncio.timeout(seconds):
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(pool),
                    host.strip("[]"),
                    int(port),
                    local_addr=(self._source, 0) if self._source else None,
                )
        except (OSError, OverflowError, TimeoutError):  # a port above 65535 overflows
            pool.failed()
        else:
            pool.opened(link)

    def close(self) -> None:
        self._wheel.clear(self)
        for task in self._tasks:
            task.cancel()
        for pool in self._pools.values():
            pool.close()
