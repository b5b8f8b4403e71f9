"""A wide-area network on one machine: a TCP proxy that delays bytes as a scenario's legs do.

One listener per worker; the leg is chosen by the client's source address, so one worker is near to one gateway and far
from another. Order within a connection is kept and back-pressure passes through. Connections are accepted locally:
only round trips inside a connection cost time. Run-time control lies in `wan_control.py`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import Final, cast

import msgspec

from loadtests.delay import Delay
from loadtests.scenario import Scenario

HIGH_WATER: Final = 1 << 20
"""Bytes under way in one direction before the sender is paused: 1 MiB in 100 ms is 80 Mbit/s per connection."""
LOW_WATER: Final = HIGH_WATER // 2
AT_ONCE: Final = 0.0005
"""Delays below this are not waited for: the event loop's timers count whole milliseconds."""
EOF: Final = object()
CLOSE: Final = object()
ABORT: Final = object()


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST: lingering for zero seconds makes the kernel send no FIN."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Way:
    """One direction between two regions; what it says now holds for the bytes that arrive now."""

    def __init__(self, delay: float, jitter: float, rng: random.Random, drawn: Delay | None = None) -> None:
        """`drawn` replaces the jitter, until somebody sets another delay."""
        self.delay = delay
        self.jitter = jitter
        self._drawn = drawn
        self.down = False
        self._as_built = (delay, jitter)
        self._rng = rng
        self.pipes: set[Pipe] = set()

    def draw(self) -> float:
        """Seconds the next piece takes: as drawn, or uniform within the jitter around the delay."""
        if self._drawn is not None and (self.delay, self.jitter) == self._as_built:
            return self._drawn.draw()
        return max(0.0, self.delay + self._rng.uniform(-self.jitter, self.jitter))

    def cut(self, down: bool) -> None:
        """A cut way holds bytes, as a black hole does until TCP sends them again after it heals."""
        self.down = down
        if not down:
            for pipe in tuple(self.pipes):
                pipe.flush()

    def restore(self) -> None:
        self.delay, self.jitter = self._as_built
        self.cut(False)


class Toxic(msgspec.Struct, frozen=True):
    """Extra delay on one proxy, named and shaped as toxiproxy's `latency` toxic (seconds inside)."""

    stream: str
    """`upstream` (to the worker) or `downstream`."""
    latency: float
    jitter: float = 0.0


class Pipe:
    """One direction of one connection: pieces wait in order until they are due, then are written."""

    def __init__(self, way: Way, proxy: Proxy, stream: str) -> None:
        self.way = way
        self.proxy = proxy
        self.stream = stream
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.blocked = False
        self._pieces: deque[tuple[float, object]] = deque()
        self._bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        way.pipes.add(self)

    def put(self, piece: object) -> None:
        due = time.monotonic() + self.way.draw() + self.proxy.added(self.stream)
        self._last_due = due = max(due, self._last_due)
        self._pieces.append((due, piece))
        if isinstance(piece, bytes):
            self._bytes += len(piece)
        if self._bytes > HIGH_WATER and self.source is not None and not self._paused:
            self.source.pause_reading()
            self._paused = True
        self.flush()

    def flush(self) -> None:
        """Write everything due, then set the timer for what comes next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sink is None or self.blocked or self.way.down:
            return
        now = time.monotonic()
        while self._pieces and not self.blocked:
            due, piece = self._pieces[0]
            if due - now > AT_ONCE:
                self._timer = asyncio.get_running_loop().call_later(due - now, self.flush)
                break
            self._pieces.popleft()
            self._write(self.sink, piece)
        if self._paused and self._bytes < LOW_WATER and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()
            self._paused = False

    def _write(self, sink: asyncio.Transport, piece: object) -> None:
        if sink.is_closing():
            self._bytes -= len(piece) if isinstance(piece, bytes) else 0
        elif isinstance(piece, bytes):
            self._bytes -= len(piece)
            sink.write(piece)
        elif piece is EOF:
            sink.write_eof()
        elif piece is CLOSE:
            sink.close()
        else:
            reset(sink)

    def drop(self) -> None:
        """Nobody listens at the end any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pieces.clear()
        self.way.pipes.discard(self)


class Side(asyncio.Protocol):
    """One end of a proxied connection: what it reads goes into `out`, what `into` delivers it writes."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.out: Pipe | None = None
        self.into: Pipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.opened(self)

    def join(self, out: Pipe, into: Pipe) -> None:
        self.out, self.into = out, into
        out.source = into.sink = self.transport
        into.flush()

    def data_received(self, data: bytes) -> None:
        assert self.out is not None
        self.out.put(bytes(data))

    def eof_received(self) -> bool:
        assert self.out is not None
        self.out.put(EOF)
        return True

    def pause_writing(self) -> None:
        assert self.into is not None
        self.into.blocked = True

    def resume_writing(self) -> None:
        assert self.into is not None
        self.into.blocked = False
        self.into.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.proxy.closed(self)
        if self.into is not None:
            self.into.drop()
        if self.out is not None:
            self.out.source = None
            self.out.put(ABORT if exc is not None else CLOSE)


class Entry(Side):
    """The end that a gateway connected to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.accepted(self)


class Proxy:
    """The way into one worker: a listener, and the worker's real address behind it."""

    def __init__(self, wan: Wan, name: str, region: str, upstream: tuple[str, int]) -> None:
        self.wan = wan
        self.name = name
        self.region = region
        self.upstream = upstream
        self.toxics: dict[str, Toxic] = {}
        self.enabled = True
        self.sides: set[Side] = set()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self.listen: tuple[str, int] = ("", 0)
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen where it listened before, or on a free loopback port the first time."""
        host, port = self.listen if self.listen[1] else ("127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Entry(self), host, port)
        self.listen = self._server.sockets[0].getsockname()[:2]

    def stop(self) -> None:
        """Close the listener and reset every connection, as a dead host's neighbour would."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for side in tuple(self.sides):
            if side.transport is not None:
                reset(side.transport)

    async def enable(self, on: bool) -> None:
        if on and not self.enabled:
            await self.start()
        elif self.enabled and not on:
            self.stop()
        self.enabled = on

    def added(self, stream: str) -> float:
        return sum(
            max(0.0, toxic.latency + self.wan.rng.uniform(-toxic.jitter, toxic.jitter))
            for toxic in self.toxics.values()
            if toxic.stream == stream
        )

    def opened(self, side: Side) -> None:
        self.sides.add(side)
        self.emptied.clear()

    def closed(self, side: Side) -> None:
        self.sides.discard(side)
        if not self.sides:
            self.emptied.set()

    def accepted(self, entry: Entry) -> None:
        assert entry.transport is not None
        origin = self.wan.region_of(entry.transport.get_extra_info("peername")[0]) or self.region
        out = Pipe(self.wan.ways[origin, self.region], self, "upstream")
        into = Pipe(self.wan.ways[self.region, origin], self, "downstream")
        entry.join(out, into)
        # Held until the worker accepted; after that no task lives.
        task = asyncio.get_running_loop().create_task(self._connect(entry, out, into))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, entry: Entry, out: Pipe, into: Pipe) -> None:
        assert entry.transport is not None
        try:
            _, side = await asyncio.get_running_loop().create_connection(lambda: Side(self), *self.upstream)
        except OSError:
            reset(entry.transport)
            return
        side.join(into, out)


class Wan:
    """All ways and proxies of one scenario. The same scenario, seed and traffic give the same delays."""

    def __init__(self, scenario: Scenario, upstreams: Mapping[str, tuple[str, int]]) -> None:
        self.rng = random.Random(scenario.seed)
        self._regions = {region.source_address: name for name, region in scenario.regions.items()}
        self.ways: dict[tuple[str, str], Way] = {}
        for a in scenario.regions:
            for b in scenario.regions:
                rtt, jitter = scenario.round_trip(a, b)
                rng = random.Random(f"{scenario.seed}/{a}/{b}")
                drawn = scenario.drawn(a, b)
                delay = None if drawn is None else Delay(drawn.min_ms, rtt * 1e3, drawn.mdev_ms, rng)
                self.ways[a, b] = Way(rtt / 2, jitter / 2, rng, delay)
        region_of = {worker.id: worker.region for worker in scenario.workers}
        self.proxies = {name: Proxy(self, name, region_of[name], at) for name, at in upstreams.items()}

    def region_of(self, address: str) -> str | None:
        """The region a source address belongs to; anyone else is taken to stand beside the worker."""
        return self._regions.get(address)

    async def start(self) -> None:
        for proxy in self.proxies.values():
            await proxy.start()

    async def stop(self) -> None:
        """Close everything and wait until the sockets are gone."""
        for proxy in self.proxies.values():
            proxy.stop()
        for proxy in self.proxies.values():
            await proxy.emptied.wait()

    async def reset(self) -> None:
        """Everything as it was at the start."""
        for way in self.ways.values():
            way.restore()
        for proxy in self.proxies.values():
            proxy.toxics.clear()
            await proxy.enable(True)
