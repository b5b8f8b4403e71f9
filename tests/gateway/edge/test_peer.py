"""What a socket tells about its client."""

from __future__ import annotations

import asyncio

import pytest

from gateway.edge import peer
from tests.fakes import FakeTransport


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("", False), ("unix", False)],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert peer.is_loopback(address) is loopback


def test_addresses() -> None:
    assert peer.address(FakeTransport(("10.0.0.1", 5))) == "10.0.0.1"
    assert peer.address(asyncio.Transport({"peername": ""})) == ""


def test_without_a_socket_nobody_knows_the_distance() -> None:
    assert peer.round_trip(FakeTransport()) == 0.0


async def test_the_kernel_knows_the_distance() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert 0 < peer.round_trip(writer.transport) < 0.1
    await reader.read()
    writer.close()
    server.close()
