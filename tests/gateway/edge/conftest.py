"""The edge as scripts speak to it, and on real sockets, with an origin behind it that counts what reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
import pytest

from gateway.edge.listener import Listener, listen
from gateway.edge.upstream import Pools
from policies.request import RoundTrip, WorkerSeen
from tests.battery import Origin
from tests.fleets import worker
from tests.playbook import Edge


@pytest.fixture
def edge() -> Edge:
    """One gateway, three workers, no sockets; time passes when a script says so."""
    return Edge()


class Live(NamedTuple):
    edge: Edge
    listener: Listener
    seen: list[bytes]
    """Every request the origin got, whole."""


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    """One gateway, one worker, real time."""
    loop = asyncio.get_running_loop()
    seen: list[bytes] = []
    origin = await loop.create_server(lambda: Origin(seen), "127.0.0.1", 0)
    edge = Edge("")
    edge.plane.clock = loop.time
    edge.wheel._clock = loop.time
    edge.wheel._cursor = int(loop.time() / edge.wheel._width)
    edge.plane.upstream = pools = Pools(edge.wheel, loop.time)
    record = worker("a", address=f"127.0.0.1:{origin.sockets[0].getsockname()[1]}")
    edge.router.observe(WorkerSeen(record), loop.time())
    edge.router.observe(RoundTrip("a", 0.001), loop.time())
    edge.plane.limits = msgspec.structs.replace(edge.plane.limits, header_timeout_s=2.0)
    listener = await listen(edge.plane, ("127.0.0.1", 0))
    yield Live(edge, listener, seen)
    listener.close()
    pools.close()
    edge.wheel.stop()
    origin.close()
    await asyncio.sleep(0)  # aborted transports tell their protocols in the loop's next turn
