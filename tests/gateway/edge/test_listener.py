"""Accepting, the cap, draining: on real sockets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.edge import listener as module
from gateway.edge.listener import listen
from policies.request import WorkerGone, WorkerSeen
from tests.battery import BODY, CHAT, LENGTH, ORIGIN_BODY, POST
from tests.fleets import worker
from tests.gateway.edge.conftest import Live
from tests.playbook import Edge

REQUEST = POST + BODY


async def ask(port: int, count: int = 1) -> bytes:
    """Send requests one after the other on one connection; the last answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    for _ in range(count):
        writer.write(REQUEST)
        answer = await reader.readuntil(ORIGIN_BODY)
    writer.close()
    return answer


async def half_sent(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose request has begun, surely: its head was answered by 100."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n")
    assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_sequential_requests_reach_the_worker_over_one_connection(live: Live) -> None:
    assert (await ask(live.listener.port, count=20)).startswith(b"HTTP/1.1 200 OK")
    assert len(live.seen) == 20
    assert "idle 1 busy 0" in repr(live.edge.plane.upstream)


async def test_many_clients_at_once_are_all_served(live: Live) -> None:
    answers = await asyncio.gather(*(ask(live.listener.port, count=5) for _ in range(40)))
    assert all(answer.endswith(ORIGIN_BODY) for answer in answers)
    assert len(live.seen) == 200
    assert live.edge.unreported == 0


async def test_a_client_that_leaves_is_noticed_at_once(live: Live) -> None:
    """Its worker's connection closes within 100 ms (faults.md G15)."""
    loop = asyncio.get_running_loop()
    asked, left = asyncio.Event(), asyncio.Event()

    class Silent(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            asked.set()

        def connection_lost(self, exc: Exception | None) -> None:
            left.set()

    server = await loop.create_server(Silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    live.edge.router.observe(WorkerGone("a"), loop.time())
    live.edge.router.observe(WorkerSeen(worker("silent", address=address)), loop.time())
    _, writer = await asyncio.open_connection("127.0.0.1", live.listener.port)
    writer.write(REQUEST)
    await asked.wait()
    began = loop.time()
    writer.close()
    async with asyncio.timeout(5.0):
        await left.wait()
    assert loop.time() - began < 0.1
    server.close()


async def test_an_inherited_socket_is_served() -> None:
    edge = Edge("a")
    edge.plane.clock = asyncio.get_running_loop().time
    inherited = socket.create_server(("127.0.0.1", 0))
    serving = await listen(edge.plane, inherited)
    assert serving.port == inherited.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    serving.close()
    edge.wheel.stop()


async def test_beyond_the_cap_clients_are_told_and_closed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge("a")
    edge.plane.clock = asyncio.get_running_loop().time
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (10, 10))
    serving = await listen(edge.plane, ("127.0.0.1", 0))
    inside = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(8)]
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    assert (await reader.read()).startswith(b"HTTP/1.1 503")
    assert repr(serving).endswith("connections 9/8>")
    for _, held in (*inside, (reader, writer)):
        held.close()
    serving.close()
    edge.wheel.stop()


async def test_draining_finishes_what_has_begun_and_accepts_nothing_more(live: Live) -> None:
    port = live.listener.port
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await half_sent(port)
    draining = asyncio.ensure_future(live.listener.drain(5.0))
    assert await idle_reader.read() == b""
    writer.write(CHAT)
    answer = await reader.read()
    assert answer.endswith(ORIGIN_BODY)
    assert b"Connection: close" in answer
    assert await draining
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    idle_writer.close()


async def test_draining_does_not_wait_for_ever(live: Live) -> None:
    _, writer = await half_sent(live.listener.port)
    assert not await live.listener.drain(0.05)
    writer.close()
