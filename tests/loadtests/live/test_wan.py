"""The proxy between a real client and a real echo server on loopback."""

import asyncio
import socket
import time
from statistics import median

import msgspec
import pytest

from loadtests.live.wan import HIGH_WATER, Toxic, Wan
from loadtests.scenario import Drawn, Leg, Region, Scenario, WorkerPlan

NEAR, FAR = "127.0.10.1", "127.0.11.1"
RTT = 0.060

SCENARIO = Scenario(
    name="two",
    regions={"near": Region(NEAR, 0, 0), "far": Region(FAR, 1, 1)},
    legs=(Leg(("near", "far"), rtt_ms=RTT * 1e3, jitter_ms=4),),
    gateways=("near",),
    workers=(WorkerPlan(id="n1", region="far", models=("m",), variants=("v",), usd_per_hour=1),),
)


class Worker(asyncio.Protocol):
    """A server at the far end: echoes, and tells what it saw."""

    def __init__(self, server):
        self.server = server

    def connection_made(self, transport):
        self.transport = transport
        self.server.transports.add(transport)
        if not self.server.reads:  # a moment later: before Python 3.11.4 reading begins after this, paused or not
            asyncio.get_running_loop().call_later(0.01, transport.pause_reading)

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.server.transports.discard(self.transport)
        self.server.lost.set()


class WorkerServer:
    reads = True

    def __init__(self):
        self.transports = set()
        self.lost = asyncio.Event()

    async def start(self):
        self._server = await asyncio.get_running_loop().create_server(lambda: Worker(self), "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()

    async def stop(self):
        self._server.close()
        for transport in self.transports:
            transport.abort()
        while self.transports:
            await self.lost.wait()
            self.lost.clear()


@pytest.fixture
async def worker():
    worker = WorkerServer()
    await worker.start()
    yield worker
    await worker.stop()


@pytest.fixture
async def wan(worker):
    wan = Wan(SCENARIO, {"n1": worker.address})
    await wan.start()
    yield wan
    await wan.stop()


async def connect(wan, source):
    return await asyncio.open_connection(*wan.proxies["n1"].listen, local_addr=(source, 0))


async def round_trips(reader, writer, n):
    taken = []
    for number in range(n):
        sent = time.monotonic()
        writer.write(b"%06d" % number)
        assert await reader.readexactly(6) == b"%06d" % number
        taken.append(time.monotonic() - sent)
    return taken


async def test_round_trip_equals_the_table(wan):
    """Two draws of +-2 ms around 30 ms each, so no trip is more than 4 ms short, and the median of 15 is within
    1.5 ms of the table; the four loopback hops with their wake-ups add under 4 ms even on a busy machine."""
    reader, writer = await connect(wan, NEAR)
    taken = await round_trips(reader, writer, 15)
    writer.close()
    assert min(taken) >= RTT - 0.005
    assert RTT - 0.003 <= median(taken) <= RTT + 0.006


def test_a_drawn_way_is_the_simulators_until_somebody_sets_another():
    legs = (msgspec.structs.replace(SCENARIO.legs[0], drawn=Drawn(min_ms=58, mdev_ms=1)),)
    way = Wan(msgspec.structs.replace(SCENARIO, legs=legs), {}).ways["near", "far"]
    drawn = [way.draw() for _ in range(4000)]
    assert min(drawn) >= 0.029
    assert sum(drawn) / len(drawn) == pytest.approx(RTT / 2, rel=0.02)
    assert max(drawn) > 0.032  # skewed, unlike the jitter's +-2 ms
    way.delay, way.jitter = 0.010, 0.0
    assert way.draw() == 0.010
    way.restore()
    assert way.draw() >= 0.029


async def test_link_is_chosen_by_the_source_address(wan):
    reader, writer = await connect(wan, FAR)
    taken = await round_trips(reader, writer, 15)
    writer.close()
    assert median(taken) < RTT / 10


async def test_order_is_kept_under_jitter(wan):
    wan.ways["near", "far"].jitter = 0.020
    reader, writer = await connect(wan, NEAR)
    sent = b"".join(b"%04d" % n for n in range(500))
    for at in range(0, len(sent), 40):
        writer.write(sent[at : at + 40])
        await writer.drain()
    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_same_seed_draws_the_same_delays():
    one, two = (Wan(SCENARIO, {}) for _ in range(2))
    way = ("near", "far")
    assert [one.ways[way].draw() for _ in range(50)] == [two.ways[way].draw() for _ in range(50)]
    assert all(0.028 <= one.ways[way].draw() <= 0.032 for _ in range(200))


async def test_a_cut_link_holds_bytes_until_it_heals(wan):
    reader, writer = await connect(wan, NEAR)
    await round_trips(reader, writer, 1)
    wan.ways["near", "far"].cut(True)
    writer.write(b"held")
    reading = asyncio.ensure_future(reader.readexactly(4))
    await asyncio.wait([reading], timeout=3 * RTT)
    assert not reading.done()
    wan.ways["near", "far"].cut(False)
    assert await reading == b"held"
    writer.close()


async def test_a_toxic_adds_delay_to_its_stream(wan):
    wan.proxies["n1"].toxics["slow"] = Toxic("downstream", 0.050)
    reader, writer = await connect(wan, FAR)
    taken = await round_trips(reader, writer, 3)
    writer.close()
    assert min(taken) >= 0.048


async def test_half_close_passes_and_the_answer_still_comes(wan):
    reader, writer = await connect(wan, NEAR)
    writer.write(b"last words")
    writer.write_eof()
    assert await reader.read() == b"last words"
    writer.close()


async def test_a_leaving_client_is_seen_by_the_worker(wan, worker):
    reader, writer = await connect(wan, NEAR)
    await round_trips(reader, writer, 1)
    writer.close()
    async with asyncio.timeout(RTT + 0.5):
        await worker.lost.wait()


async def test_disabled_proxy_resets_and_refuses_then_comes_back_at_its_address(wan):
    proxy = wan.proxies["n1"]
    reader, writer = await connect(wan, FAR)
    await round_trips(reader, writer, 1)
    before = proxy.listen
    await proxy.enable(False)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await connect(wan, FAR)
    await wan.reset()
    assert proxy.listen == before
    reader, writer = await connect(wan, FAR)
    await round_trips(reader, writer, 1)
    writer.close()


async def test_a_node_that_refuses_resets_the_client(wan):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        wan.proxies["n1"].upstream = unused.getsockname()
        reader, writer = await connect(wan, FAR)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_back_pressure_reaches_the_sender(wan, worker):
    """A reader that stops must stop the sender: what is under way is bounded by the proxy's mark, the sockets'
    buffers (6 to 36 MiB each, by how Linux is set up) and the stream buffers, far below the 256 MiB offered."""
    offered = 256 << 20
    taken = 0
    worker.reads = False
    _, writer = await connect(wan, FAR)
    while taken < offered:
        writer.write(b"x" * 65536)
        try:
            await asyncio.wait_for(writer.drain(), 0.5)
        except TimeoutError:
            break
        taken += 65536
    writer.transport.abort()
    assert HIGH_WATER < taken < offered
