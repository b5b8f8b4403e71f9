"""Links and pools over gRPC, against servers that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.edge import rpc
from gateway.edge.rpc import RpcLink, RpcPool, RpcPools, details, spoken
from gateway.edge.wheel import TimerWheel
from tests.fakes import Clock
from tests.gateway.edge.rpcs import until
from workers.proto.messages import INFERENCE, Status
from workers.proto.refusals import DETAILS

TOLD = Status(code=3, message="told").SerializeToString()
HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\nx-request-id: r\r\nx-deadline-ms: 2000\r\nContent-Length: 3\r\n\r\n"


class Caller:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.link: Any = None

    def connected(self, link: Any) -> None:
        self.link = link
        self.told.append("connected")

    def unreachable(self) -> None:
        self.told.append("unreachable")

    def received(self, link: Any) -> None:
        self.told.append("received")

    def lost(self, link: Any, clean: bool) -> None:
        self.told.append("lost")

    def garbled(self, link: Any) -> None:
        self.told.append("garbled")

    def broke(self) -> None:
        self.told.append("broke")


class Far:
    """A server whose one method is `answer`, and the pools that reach it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counted: list[str] = []
        self.pools = RpcPools(TimerWheel(clock), clock, self.counted.append)
        self.answer: Callable[[bytes, Any], Awaitable[bytes]]
        self.cancelled = asyncio.Event()

    async def start(self, address: str = "127.0.0.1:0") -> str:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self.server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(INFERENCE, {"ModelInfer": handler}),
        ))  # fmt: skip
        port = self.server.add_insecure_port(address)
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def _answer(self, raw: bytes, context: Any) -> bytes:
        return await self.answer(raw, context)

    async def hang(self, raw: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def linked(self, address: str) -> tuple[Caller, RpcLink]:
        """A caller with a call to make."""
        pool, caller = self.pools.of(address), Caller()
        link = pool.take()
        if link is None:
            pool.connect(caller, 2.0)
            await until(lambda: caller.told)
            link = caller.link
        assert isinstance(link, RpcLink)
        caller.told.clear()
        return caller, link


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    far = Far(Clock())
    yield far
    await far.pools.close()
    if hasattr(far, "server"):
        await far.server.stop(None)


async def test_a_call_on_a_connected_channel(far: Far) -> None:
    async def answer(raw: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata())
        context.set_trailing_metadata((("server-timing", "queue;dur=1"), ("said", sent["x-request-id"])))
        return raw + b"!"

    far.answer = answer
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"abc")
    await until(lambda: caller.told)
    reply = link.reply
    assert (caller.told, reply.status, reply.complete, reply.take()) == (["received"], 200, True, b"abc!")
    assert (b"server-timing", b"queue;dur=1") in reply.fields
    assert (b"said", b"r") in reply.fields
    link.release()
    assert far.counted == ["upstream.opened"]
    assert far.pools.of(link._channel.address).take() is not None
    assert far.counted == ["upstream.opened", "upstream.reused"]


async def test_an_error_is_its_http_status_and_its_details_are_the_body(far: Far) -> None:
    async def answer(raw: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no", ((DETAILS, TOLD), ("x-a", "1")))
        return b""

    far.answer = answer
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"")
    await until(lambda: caller.told)
    assert (caller.told, link.reply.status, link.reply.take()) == (["received"], 400, TOLD)
    assert (b"x-a", b"1") in link.reply.fields
    assert Status.FromString(details(9, "why", ())) == Status(code=9, message="why")


@pytest.mark.parametrize(
    "said", [b"\xff\xff", b"", Status(code=0).SerializeToString(), Status(code=5).SerializeToString()]
)
def test_details_that_are_none_or_of_another_code_are_made_anew(said: bytes) -> None:
    assert Status.FromString(details(3, "why", ((DETAILS, said),))) == Status(code=3, message="why")


@pytest.mark.parametrize(
    ("status", "marked", "told"),
    [
        (grpc.StatusCode.UNAVAILABLE, True, "received"),
        (grpc.StatusCode.UNAVAILABLE, False, "lost"),
        (grpc.StatusCode.CANCELLED, False, "lost"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, True, "received"),
        (grpc.StatusCode.UNKNOWN, False, "received"),
    ],
)
async def test_a_broken_connection_is_told_from_a_refusal_by_its_mark(
    far: Far, status: grpc.StatusCode, marked: bool, told: str
) -> None:
    async def answer(raw: bytes, context: Any) -> bytes:
        await context.abort(status, "no", (("x-isochrone-executed", "0"),) if marked else ())
        return b""

    far.answer = answer
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"")
    await until(lambda: caller.told)
    assert caller.told == [told]
    if told == "received":
        assert link.reply.status == {"UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "UNKNOWN": 500}[status.name]


async def test_a_deadline_without_a_mark_is_left_to_the_alarm(far: Far) -> None:
    ended = asyncio.Event()

    async def answer(raw: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: ended.set())
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no")
        return b""

    far.answer = answer
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"")
    await ended.wait()
    await until(lambda: link._task is not None and link._task.done())
    assert caller.told == []
    link.release()


async def test_releasing_an_unanswered_call_cancels_it_there(far: Far) -> None:
    far.answer = far.hang
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"")
    await asyncio.sleep(0.05)
    link.close()
    await asyncio.wait_for(far.cancelled.wait(), 5)
    with contextlib.suppress(asyncio.CancelledError):
        assert link._task is not None
        await link._task
    assert caller.told == []


async def test_a_server_that_dies_loses_its_calls(far: Far) -> None:
    far.answer = far.hang
    caller, link = await far.linked(await far.start())
    link.send(caller, HEAD, b"")
    await asyncio.sleep(0.05)
    await far.server.stop(None)
    await until(lambda: caller.told)
    assert caller.told == ["lost"]


async def test_nobody_listening_is_unreachable_at_once_and_found_when_it_comes(far: Far) -> None:
    address = await far.start()
    await far.server.stop(None)
    pool, caller = far.pools.of(address), Caller()
    pool.connect(caller, 30.0)
    await until(lambda: caller.told)
    assert caller.told == ["unreachable"]
    assert far.counted == ["upstream.failed"]
    far.answer = far.hang
    await far.start(address)
    await until(lambda: pool.take() is not None or pool.connect(caller, 1.0))


async def test_a_silent_address_has_its_time(far: Far) -> None:
    async with silent() as address:
        pool, caller, other = far.pools.of(address), Caller(), Caller()
        pool.connect(caller, 0.05)
        pool.connect(other, 0.05)
        pool.forget(other)
        await until(lambda: caller.told)
        assert (caller.told, other.told) == (["unreachable"], [])
        assert "waiting 0" in repr(pool)


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_a_channel_that_nobody_uses_is_closed(far: Far) -> None:
    far.answer = far.hang
    address = await far.start()
    await far.linked(address)
    pool = far.pools.of(address)
    far.clock.now += rpc.UNUSED_SECONDS
    far.pools.ring(far.clock.now)
    assert far.pools.of(address) is pool
    far.clock.now += 1.0
    far.pools.ring(far.clock.now)
    assert far.pools.of(address) is not pool
    assert isinstance(far.pools.of(address), RpcPool)
    await until(lambda: not far.pools._tasks)


def test_a_head_becomes_metadata_and_a_deadline() -> None:
    metadata, timeout = spoken(HEAD)
    assert metadata == (("x-request-id", "r"), ("x-deadline-ms", "2000"))
    assert timeout == 2.0 + rpc.GRACE
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nGrpc-Thing: 1\r\nx-bin: 1\r\na-bin: 1\r\nContent-Length: 0\r\n\r\n"
    assert spoken(head) == ((), None)
