"""Workers over gRPC: the links and pools of `upstream.py`, where a link is one call and a pool is one channel.

An exchange drives them as it drives connections. The head it writes becomes metadata, and a deadline of gRPC's own; the
status of what comes back becomes the HTTP status that means the same, its trailing metadata the reply's fields, and of
an error the google.rpc.Status its body. So what an answer means and what may be repeated is decided once, by the rules
for HTTP. The message itself goes through as bytes. grpc hides when a request was written, so a call is made only on a
channel that is connected: until then, nothing has been.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from gateway.edge.reply import Reply
from gateway.edge.upstream import Caller, Link, Pool, tell
from gateway.edge.wheel import Alarm, TimerWheel
from policies.records import DEADLINE_HEADER, EXECUTED_HEADER
from workers.proto.messages import INFERENCE, DecodeError, Status
from workers.proto.refusals import DETAILS

log = logging.getLogger(__name__)

METHOD = f"/{INFERENCE}/ModelInfer"
MAX_REPLY = 64 * 1024 * 1024
"""Bytes of one answer: grpc hands it over whole, and a worker may not fill our memory."""
OPTIONS = (
    ("grpc.max_send_message_length", -1),  # the listener has bounded it
    ("grpc.max_receive_message_length", MAX_REPLY),
    ("grpc.enable_retries", 0),  # whether an attempt may be repeated is the router's to say
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a worker that comes back is found within a second
    ("grpc.use_local_subchannel_pool", 1),  # a channel that was closed is really gone
)
GRACE = 0.1
"""Seconds by which gRPC's own deadline is later than the one in the metadata, so that ours, which knows what to do
then, comes first."""
UNUSED_SECONDS = 300.0
"""A channel that nothing was sent on for so long is closed: its worker has left, or is not chosen."""
SWEEP_SECONDS = 30.0

NOT_METADATA = frozenset((b"host", b"content-length", b"content-type", b"user-agent", b"te"))
"""Lines of a head that HTTP/2 or grpc writes itself."""
OK, CANCELLED, UNAVAILABLE, LATE = 0, 1, 14, 4
HTTP = {OK: 200, CANCELLED: 499, 3: 400, LATE: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
        UNAVAILABLE: 503, 16: 401}  # fmt: skip
"""What a gRPC status means in HTTP (google.rpc.Code); any other is 500."""
LOST = frozenset((CANCELLED, UNAVAILABLE))
"""What grpc says of a broken connection. A worker that says so itself and did nothing marks its answer."""
EXECUTED = EXECUTED_HEADER.encode()
DEADLINE = DEADLINE_HEADER.encode()

Metadata = tuple[tuple[str, str], ...]


class RpcReply(Reply):
    """An answer, which comes whole."""

    __slots__ = ()

    def __init__(self) -> None:
        self.reset()  # without a parser

    def whole(self, code: int, trailers: Any, content: bytes) -> None:
        """Take an answer, in HTTP's words."""
        self.headed = self.complete = self.keep_alive = True
        self.status = HTTP.get(code, 500)
        self.fields = [(name.encode(), value.encode()) for name, value in trailers if isinstance(value, str)]
        self.parts = [content]
        self.size = len(content)


class RpcLink(Link):
    """One call: made, waited for, and perhaps cancelled, for exactly one exchange."""

    __slots__ = ("_call", "_channel", "_task")

    reply: RpcReply

    def __init__(self, pool: RpcPool) -> None:
        self._channel = pool
        self.caller: Caller | None = None
        self.reply = RpcReply()
        self.idle_since = 0.0
        self.used = 0
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RpcLink {self._channel.address} {'busy' if self.caller else 'done'}>"

    def send(self, caller: Caller, head: bytes, body: bytes) -> None:
        """Make the call; the reply is the caller's."""
        self.caller = caller
        self.used += 1
        metadata, timeout = spoken(head)
        self._call = self._channel.infer(body, metadata=metadata, timeout=timeout)
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        call = self._call
        try:
            content = await call
            code, trailers = OK, await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            code, trailers = error.code().value[0], error.trailing_metadata() or ()
            content = details(code, error.details() or "", trailers)
        caller = self.caller
        if caller is not None:
            tell(caller, self._ended, caller, code, trailers, content)

    def _ended(self, caller: Caller, code: int, trailers: Any, content: bytes) -> None:
        self.reply.whole(code, trailers, content)
        marked = any(name == EXECUTED for name, _ in self.reply.fields)
        if code in LOST and not marked:
            self.reply.reset()
            caller.lost(self, False)
        elif code == LATE and not marked:
            self.reply.reset()  # our own alarm is due, and ends it
        else:
            caller.received(self)

    def release(self) -> None:
        """The exchange has what it needs, or wants nothing any more: then the worker is told so."""
        self.caller = None
        if not self.reply.complete and self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        self.release()


class RpcPool(Pool):
    """The channel to one address, and the exchanges that wait for it to connect."""

    __slots__ = ("_channel", "_connecting", "_owner", "infer", "used_at")

    def __init__(self, pools: RpcPools, address: str) -> None:
        self._owner = pools
        self.address = address
        self.host = address.encode()
        self._channel = grpc.aio.insecure_channel(address, OPTIONS)
        self.infer = self._channel.unary_unary(METHOD)  # bytes in, bytes out
        self._waiting: dict[Caller, None] = {}
        self._connecting: asyncio.Task[None] | None = None
        self.used_at = pools.clock()

    def __repr__(self) -> str:
        return f"<RpcPool {self.address} {self._channel.get_state().name} waiting {len(self._waiting)}>"

    @property
    def unused(self) -> bool:
        return not self._waiting and self.used_at < self._owner.clock() - UNUSED_SECONDS

    def take(self) -> Link | None:
        """A call to be made, now the caller's; None while the channel is not connected."""
        self.used_at = self._owner.clock()
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            return None
        self._owner.count("upstream.reused")
        return RpcLink(self)

    def connect(self, caller: Caller, seconds: float) -> None:
        """Let `caller` have a call as soon as the channel is connected. A task per connection, never per request."""
        self._waiting[caller] = None
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(seconds))

    async def _connect(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                connected = await self._connected()
        except TimeoutError:
            connected = False
        self._connecting = None
        self._owner.count("upstream.opened" if connected else "upstream.failed")
        waiting, self._waiting = self._waiting, {}
        for caller in waiting:
            if connected:
                tell(caller, caller.connected, RpcLink(self))
            else:
                tell(caller, caller.unreachable)

    async def _connected(self) -> bool:
        """Whether the channel connects. One that has just failed to is asked to try again, and not waited for."""
        channel = self._channel
        state = channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    def forget(self, caller: Caller) -> None:
        self._waiting.pop(caller, None)

    async def end(self) -> None:
        """Close the channel, and with it what still runs on it."""
        if self._connecting is not None:
            self._connecting.cancel()
        await self._channel.close()


class RpcPools(Alarm):
    """All channels of one gateway process, by address."""

    __slots__ = ("_pools", "_tasks", "_wheel", "clock", "count")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float], count: Callable[[str], None]) -> None:
        super().__init__()
        self._wheel = wheel
        self.clock = clock
        self.count = count
        self._pools: dict[str, RpcPool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        wheel.set(self, clock() + SWEEP_SECONDS)

    def __repr__(self) -> str:
        return f"<RpcPools {list(self._pools.values())}>"

    def of(self, address: str) -> RpcPool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = RpcPool(self, address)
        return pool

    def ring(self, now: float) -> None:
        for address, pool in list(self._pools.items()):
            if pool.unused:
                del self._pools[address]
                task = asyncio.get_running_loop().create_task(pool.end())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._wheel.set(self, now + SWEEP_SECONDS)

    async def close(self) -> None:
        self._wheel.clear(self)
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.end()


def spoken(head: bytes) -> tuple[Metadata, float | None]:
    """A request head as gRPC says it: metadata, and the seconds the call may take."""
    metadata: list[tuple[str, str]] = []
    timeout: float | None = None
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b": ")
        if name == DEADLINE:
            timeout = int(value) / 1e3 + GRACE
        if (key := _key(name)) is not None:
            metadata.append((key, value.decode("latin-1")))
    return tuple(metadata), timeout


@functools.lru_cache(maxsize=256)  # names repeat; the listener has bounded what a client may send
def _key(name: bytes) -> str | None:
    """A field's name as metadata; None when it is no business of the call's."""
    lower = name.lower()
    return None if lower in NOT_METADATA or lower.startswith(b"grpc-") or lower.endswith(b"-bin") else lower.decode()


def details(code: int, message: str, trailers: Any) -> bytes:
    """An error as google.rpc.Status: the worker's, if that is one and of this code, else made of code and message."""
    given = next((value for name, value in trailers if name == DETAILS and isinstance(value, bytes)), b"")
    try:
        if Status.FromString(given).code == code:
            return given
    except DecodeError:
        pass
    made: bytes = Status(code=code, message=message).SerializeToString()
    return made
