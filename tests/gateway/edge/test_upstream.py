"""Links and pools: reserved on take, newest first, never used twice at once or after a fault."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.edge.upstream import Link, Pool, Pools
from gateway.edge.wheel import TimerWheel
from tests.fakes import Clock, FakePools, FakeTransport
from tests.playbook import reply


class Caller:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.link: Link | None = None

    def connected(self, link: Link) -> None:
        self.told.append("connected")
        self.link = link

    def unreachable(self) -> None:
        self.told.append("unreachable")

    def received(self, link: Link) -> None:
        self.told.append("received")

    def lost(self, link: Link, clean: bool) -> None:
        self.told.append("lost cleanly" if clean else "lost")

    def garbled(self, link: Link) -> None:
        self.told.append("garbled")

    def broke(self) -> None:
        self.told.append("broke")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pools(clock: Clock) -> FakePools:
    return FakePools(TimerWheel(clock), clock, max_connections=2)


@pytest.fixture
def pool(pools: FakePools) -> Pool:
    return pools.of("10.0.0.1:80")


def served(pool: Pool) -> Link:
    """A link that has served one request, and is held."""
    caller = Caller()
    link = pool.take()
    if link is None:
        pool.connect(caller, 1.0)
        link = caller.link
    assert link is not None
    link.send(caller, b"POST / HTTP/1.1\r\n\r\n", b"")
    link.data_received(reply(b"ok"))
    return link


def test_a_taken_link_is_nobody_elses(pool: Pool) -> None:
    first, second = served(pool), served(pool)
    assert first is not second
    first.release()
    second.release()
    assert pool.take() is second, "the most recently used goes first"
    assert pool.take() is first
    assert pool.take() is None
    assert repr(pool) == "<Pool 10.0.0.1:80 idle 0 busy 2 connecting 0 waiting 0>"


def test_many_takes_and_releases_never_share(pools: FakePools) -> None:
    rng = random.Random(3)
    pools.max_connections = 100
    pool, held = pools.of("10.0.0.1:80"), []
    for _ in range(2000):
        if held and rng.random() < 0.5:
            link = held.pop(rng.randrange(len(held)))
            if rng.random() < 0.1:
                link.connection_lost(None)
            else:
                link.release()
        elif len(held) < 50:
            link = served(pool)
            assert link not in held
            held.append(link)
    assert len(pool._links) == len(pool._idle) + len(held)


@pytest.mark.parametrize(
    "data",
    [
        reply(b"ok")[:-1],
        reply(b"ok", b"Connection: close"),
        reply(b"ok").replace(b"1.1", b"1.0", 1),
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
def test_a_link_that_may_hold_more_is_not_used_again(pool: Pool, data: bytes) -> None:
    caller = Caller()
    pool.connect(caller, 1.0)
    assert caller.link is not None
    caller.link.send(caller, b"", b"")
    caller.link.data_received(data)
    caller.link.release()
    assert repr(pool) == "<Pool 10.0.0.1:80 idle 0 busy 0 connecting 0 waiting 0>"


def test_a_link_still_writing_is_not_used_again(pool: Pool) -> None:
    link = served(pool)
    assert isinstance(link.transport, FakeTransport)
    link.transport.unsent = 1
    link.release()
    assert pool.take() is None


def test_bytes_on_an_idle_link_end_it(pool: Pool) -> None:
    link = served(pool)
    link.release()
    link.data_received(reply(b"unasked"))
    assert link.transport.is_closing()
    assert pool.take() is None


def test_a_second_answer_in_one_read_garbles_the_first(pool: Pool) -> None:
    caller = Caller()
    pool.connect(caller, 1.0)
    assert caller.link is not None
    caller.link.send(caller, b"", b"")
    caller.link.data_received(reply(b"ok") + reply(b"unasked"))
    assert caller.told == ["connected", "garbled"]
    assert caller.link.transport.is_closing()


def test_at_the_cap_callers_wait_for_a_released_link(pool: Pool) -> None:
    first, second, waiting = served(pool), served(pool), Caller()
    pool.connect(waiting, 1.0)
    assert waiting.told == []
    assert repr(pool) == "<Pool 10.0.0.1:80 idle 0 busy 2 connecting 0 waiting 1>"
    second.release()
    assert waiting.told == ["connected"]
    assert waiting.link is second
    first.release()


def test_a_link_that_is_lost_makes_room_for_whoever_waits(pools: FakePools) -> None:
    pools.max_connections = 1
    pool = pools.of("127.0.0.1:1")
    first, second = Caller(), Caller()
    pool.connect(first, 0.3)
    pool.connect(second, 0.3)
    assert (first.told, second.told) == (["connected"], [])
    assert first.link is not None
    first.link.close()
    assert second.told == ["connected"]


def test_a_connection_lost_before_anybody_heard_of_it_is_none(pool: Pool, pools: FakePools) -> None:
    pools.waiting = []
    caller = Caller()
    pool.connect(caller, 0.3)
    link = Link(pool)
    link.connection_made(FakeTransport())
    link.transport.close()
    link.connection_lost(None)
    pool.opened(link)
    assert caller.told == ["unreachable"]
    assert pool.unused


def test_a_caller_that_waits_no_longer_is_not_served(pool: Pool, pools: FakePools) -> None:
    pools.waiting = []
    gone = Caller()
    pool.connect(gone, 1.0)
    pool.forget(gone)
    pools.complete(pool)
    assert gone.told == []
    assert pool.take() is not None


def test_a_fault_in_a_caller_ends_its_exchange_and_not_the_pool(pool: Pool) -> None:
    class Broken(Caller):
        def connected(self, link: Link) -> None:
            raise ZeroDivisionError

    broken = Broken()
    pool.connect(broken, 1.0)
    assert broken.told == ["broke"]


def test_idle_links_are_closed_after_their_time_and_empty_pools_forgotten(pools: FakePools, clock: Clock) -> None:
    pool = pools.of("10.0.0.1:80")
    old, young = served(pool), served(pool)
    old.release()
    clock.now += 30
    young.release()
    clock.now += 31
    pools.ring(clock.now)
    assert old.transport.is_closing()
    assert not young.transport.is_closing()
    clock.now += 31
    pools.ring(clock.now)
    pools.ring(clock.now)
    assert repr(pools) == "<Pools []>"


# Real sockets.


async def test_a_connection_is_made_from_the_configured_address() -> None:
    loop = asyncio.get_running_loop()
    peers: list[str] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            peers.append(transport.get_extra_info("peername")[0])

    server = await loop.create_server(Server, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pools = Pools(TimerWheel(loop.time), loop.time, source="127.0.0.7")
    caller = await connected(pools, address)
    assert caller.told == ["connected"]
    await asyncio.sleep(0)
    assert peers == ["127.0.0.7"]
    pools.close()
    server.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "no-such-host.invalid:80"])
async def test_an_address_that_cannot_be_reached_is_told(address: str) -> None:
    loop = asyncio.get_running_loop()
    pools = Pools(TimerWheel(loop.time), loop.time)
    assert (await connected(pools, address)).told == ["unreachable"]
    pools.close()


async def connected(pools: Pools, address: str) -> Caller:
    """A caller that has been told how its connection went."""
    caller = Caller()
    pools.of(address).connect(caller, 5.0)
    await asyncio.gather(*pools._tasks)
    return caller
