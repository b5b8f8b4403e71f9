import asyncio
import contextlib
import random

import aiohttp

from policies import records
from tests.workers.attach.engine import running
from tests.workers.fakes import endpoint, until
from workers.attach import UNKNOWN, Reading
from workers.attach.sidecar import SICK_AFTER, Sidecar, completed
from workers.attach.vllm import Vllm
from workers.config import Placement, record
from workers.lease import Lease, connect


class Told:
    """An adapter that says what a test tells it to."""

    health_path = "/health"

    def __init__(self):
        self.well = True
        self.reading = Reading(1, 2, 0.5)
        self.fault = None

    async def healthy(self):
        if self.fault:
            raise self.fault
        return self.well

    async def load(self):
        if isinstance(self.reading, BaseException):
            raise self.reading
        return self.reading

    async def models(self):
        return ["m"]


async def test_nothing_is_said_before_the_engine_has_answered():
    sidecar = Sidecar(Told(), "w", "b")
    assert sidecar.load() is None
    await sidecar.ask()
    load = sidecar.load()
    assert (load.worker, load.boot, load.waiting, load.running, load.kv_use) == ("w", "b", 1, 2, 0.5)
    assert load.backlog is None
    assert sidecar.load().seq > load.seq
    assert sidecar.changed.is_set()


async def test_one_failed_check_is_forgiven_and_the_second_is_not(caplog):
    told = Told()
    sidecar = Sidecar(told, "w", "b")
    await sidecar.ask()
    for fault in (None, aiohttp.ClientError("gone"), TimeoutError()):
        told.well, told.fault = False, fault
        for _ in range(SICK_AFTER - 1):
            await sidecar.ask()
            assert sidecar.load() is not None
        await sidecar.ask()
        assert sidecar.load() is None
        told.well, told.fault = True, None
        await sidecar.ask()
        assert sidecar.load() is not None
    assert caplog.text.count("engine is sick") == caplog.text.count("engine is well") == 3
    assert "engine is sick (gone)" in caplog.text


async def test_an_engine_dead_from_the_start_is_said_once_and_so_is_its_rise(caplog):
    told = Told()
    told.fault = aiohttp.ClientError("refused")
    sidecar = Sidecar(told, "w", "b")
    for _ in range(5):
        await sidecar.ask()
    assert caplog.text.count("engine is sick (refused): not registered until it is well") == 1
    told.fault = None
    await sidecar.ask()
    assert caplog.text.count("engine is well: registering it") == 1


async def test_a_port_nobody_listens_on_is_named_in_words(caplog):
    async with aiohttp.ClientSession() as session:
        sidecar = Sidecar(Vllm(session, "http://127.0.0.1:1"), "w", "b")
        for _ in range(SICK_AFTER):
            await sidecar.ask()
    assert "engine is sick (connection refused)" in caplog.text


async def test_an_engine_well_from_the_start_needs_no_word(caplog):
    await Sidecar(Told(), "w", "b").ask()
    assert caplog.text == ""


async def test_a_load_that_cannot_be_read_is_unknown_and_the_engine_stays():
    told = Told()
    sidecar = Sidecar(told, "w", "b")
    await sidecar.ask()
    told.reading = TimeoutError()
    await sidecar.ask()
    load = sidecar.load()
    assert (load.waiting, load.running) == (None, None)


async def test_a_fault_of_ours_is_logged_and_the_questions_go_on(caplog):
    told = Told()
    sidecar = Sidecar(told, "w", "b", interval=0.001)
    told.fault = ZeroDivisionError()
    asking = asyncio.ensure_future(sidecar.run())
    await until(lambda: "asking the engine failed" in caplog.text)
    told.fault = None
    await until(lambda: sidecar.load() is not None)
    asking.cancel()
    await asyncio.wait([asking])


@contextlib.asynccontextmanager
async def attached(engine, url):
    """An engine's sidecar and its lease, as app.py puts them together."""
    async with aiohttp.ClientSession() as session:
        placement = Placement(region="eu-1", id="w1")
        address = engine.url.removeprefix("http://")
        worker = record(placement, boot="b", address=address, endpoints=(endpoint(),), engine="vllm")
        sidecar = Sidecar(Vllm(session, engine.url), "w1", "b")
        lease = Lease(connect(url), worker, sidecar.load, sidecar.changed, random.Random(1))
        tasks = [asyncio.ensure_future(sidecar.run()), asyncio.ensure_future(lease.run())]
        try:
            yield lease
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await lease.close()


async def test_a_queue_that_rises_from_0_to_20_rises_in_the_registry(redis_server):
    def load():
        return records.decode_load(client.get(records.load_key("eu-1", "w1")))

    with redis_server.client() as client:
        async with running() as engine, attached(engine, redis_server.url) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            assert load().waiting == 0
            for depth in (5, 12, 20):
                engine.waiting = depth
                await until(lambda depth=depth: load().waiting == depth, seconds=1.0)


async def test_the_lease_is_held_only_while_the_engine_is_healthy(redis_server):
    key = records.load_key("eu-1", "w1")
    with redis_server.client() as client:
        async with running() as engine, attached(engine, redis_server.url) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            engine.healthy = False
            await until(lambda: client.get(key) is None, seconds=2.0)
            engine.healthy = True
            await until(lambda: client.get(key) is not None, seconds=2.0)


def test_a_proxys_counts_complete_what_the_engine_says():
    assert completed(UNKNOWN, Reading(3, 2)) == Reading(3, 2, 0.0)
    assert completed(Reading(4, 9, 0.5), Reading(3, 2)) == Reading(7, 9, 0.5)
    assert completed(Reading(4, None), Reading(0, 2)) == Reading(4, 2, 0.0)


async def test_the_load_is_as_counted_where_a_proxy_stands():
    sidecar = Sidecar(Told(), "w", "b")
    await sidecar.ask()
    sidecar.counts = lambda: Reading(5, 1)
    assert (sidecar.load().waiting, sidecar.load().running) == (6, 2)
