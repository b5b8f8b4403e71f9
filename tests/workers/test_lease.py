import asyncio
import contextlib
import random
import signal
import time

import msgspec
import pytest

from policies import records
from policies.records import Load, Worker
from tests.workers.fakes import endpoint, until
from workers.config import Placement, record
from workers.lease import EARLY_GAP, Lease, connect, differs, pace

WORKER = record(Placement(region="eu-1", id="w1"), boot="b", address="127.0.0.1:80", endpoints=(endpoint(),))


class Figures:
    """A load that a test sets."""

    def __init__(self, **fields):
        self.fields = fields
        self.seq = 0

    def __call__(self):
        if self.fields.get("sick"):
            return None
        self.seq += 1
        return Load(worker="w1", boot="b", seq=self.seq, **self.fields)


@contextlib.asynccontextmanager
async def holding(url, load, changed=None, **signing):
    lease = Lease(connect(url), WORKER, load, changed or asyncio.Event(), random.Random(3), **signing)
    task = asyncio.ensure_future(lease.run())
    try:
        yield lease
    finally:
        task.cancel()
        await asyncio.wait([task])
        await lease.close()


def stored(client):
    node = client.get(records.node_key("eu-1", "w1"))
    load = client.get(records.load_key("eu-1", "w1"))
    return node and records.open_worker(node, None), load and records.decode_load(load)


async def test_it_registers_everything_a_gateway_reads(redis_server):
    with redis_server.client() as client:
        async with holding(redis_server.url, Figures(waiting=3)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            worker, load = stored(client)
            assert isinstance(worker, Worker)
            assert (worker.id, worker.seq > 1_000_000_000_000, load.waiting) == ("w1", True, 3)
            assert client.smembers(records.REGIONS) == {b"eu-1"}
            assert client.smembers(records.ids_key("eu-1")) == {b"w1"}
            assert 0 < client.pttl(records.load_key("eu-1", "w1")) <= records.LEASE_SECONDS * 1e3


async def test_new_figures_are_written_with_the_next_beat_once(redis_server):
    faster = (endpoint(base=0.001),)
    with redis_server.client() as client, client.pubsub() as channel:
        async with holding(redis_server.url, Figures(waiting=0)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            before, _ = stored(client)
            channel.subscribe(records.changes_channel("eu-1", "w1"))
            lease.describe(faster)
            await until(lambda: stored(client)[0].endpoints == faster)
            assert stored(client)[0].seq > before.seq
            await asyncio.sleep(3 * records.HEARTBEAT_SECONDS)
        messages = []
        while (message := channel.get_message(timeout=0.2)) is not None:
            if message["type"] == "message":
                messages.append(message["data"])
    assert sum(each.startswith(records.NODE) for each in messages) == 1
    assert sum(each.startswith(records.LOAD) for each in messages) > 1


async def test_records_are_published_as_they_are_written(redis_server):
    with redis_server.client() as client, client.pubsub() as channel:
        channel.subscribe(records.changes_channel("eu-1", "w1"))
        async with holding(redis_server.url, Figures(waiting=0)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            await lease.withdraw()
        messages = []
        while (message := channel.get_message(timeout=0.2)) is not None:
            if message["type"] == "message":
                messages.append(message["data"])
    assert messages[0].startswith(records.NODE)
    assert messages[1].startswith(records.LOAD)
    assert messages[-1] == records.GONE + b"w1"


async def test_beats_keep_coming_and_sequences_grow(redis_server):
    with redis_server.client() as client:
        async with holding(redis_server.url, Figures(waiting=0)):
            await until(lambda: stored(client)[1] is not None)
            first = stored(client)[1].seq
            begun = time.monotonic()
            await until(lambda: stored(client)[1].seq >= first + 4)
            assert 0.5 < time.monotonic() - begun < 2.5, "four a second"


async def test_a_large_change_is_told_early_and_a_small_one_is_not(redis_server):
    figures, changed = Figures(waiting=0), asyncio.Event()
    with redis_server.client() as client:
        async with holding(redis_server.url, figures, changed) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            lease.interval = 60.0
            await asyncio.sleep(0.3)  # the pause that began with the old interval
            begun = time.monotonic()
            figures.fields["waiting"] = 20
            changed.set()
            await until(lambda: stored(client)[1].waiting == 20)
            assert time.monotonic() - begun < 4 * EARLY_GAP
            figures.fields["waiting"] = 21
            changed.set()
            await until(lambda: not changed.is_set())
            assert stored(client)[1].waiting == 20


async def test_after_a_flush_everything_is_back_with_the_next_beat(redis_server):
    with redis_server.client() as client:
        async with holding(redis_server.url, Figures(waiting=0)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            before = stored(client)[0].seq
            client.flushall()
            begun = time.monotonic()
            await until(lambda: None not in stored(client))
            assert time.monotonic() - begun < 1.0
            assert stored(client)[0].seq > before
            assert client.sismember(records.ids_key("eu-1"), "w1")


async def test_an_id_that_a_gateway_removed_is_put_back(redis_server):
    with redis_server.client() as client:
        async with holding(redis_server.url, Figures(waiting=0)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            client.srem(records.ids_key("eu-1"), "w1")
            await until(lambda: client.sismember(records.ids_key("eu-1"), "w1"))


async def test_redis_killed_and_back_costs_nothing_but_time(redis_server, caplog):
    async with holding(redis_server.url, Figures(waiting=0)) as lease:
        await asyncio.wait_for(lease.registered.wait(), 2)
        redis_server.stop()
        await until(lambda: lease.failures >= 1)
        redis_server.start()
        with redis_server.client() as client:
            await until(lambda: None not in stored(client))
    assert caplog.text.count("registry unreachable") == 1


async def test_a_registry_nobody_spoke_to_is_not_said_to_be_back(redis_server, caplog):
    figures = Figures(waiting=0)
    async with holding(redis_server.url, figures) as lease:
        await asyncio.wait_for(lease.registered.wait(), 2)
        redis_server.stop()
        await until(lambda: lease.failures >= 1)
        figures.fields = {"sick": True}
        await until(lambda: not lease.registered.is_set())
        assert await lease.beat() is False  # nothing to say
        assert "reachable again" not in caplog.text
        figures.fields = {"waiting": 0}
        redis_server.start()
        await until(lambda: "registry reachable again" in caplog.text)
        with redis_server.client() as client:
            assert None not in stored(client)


async def test_a_frozen_redis_holds_nothing_up(redis_server):
    async with holding(redis_server.url, Figures(waiting=0)) as lease:
        await asyncio.wait_for(lease.registered.wait(), 2)
        redis_server.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        await until(lambda: lease.failures >= 2)
        assert time.monotonic() - begun < 4.0
        redis_server.process.send_signal(signal.SIGCONT)
        with redis_server.client() as client:
            await until(lambda: None not in stored(client))


async def test_without_a_load_there_is_no_lease(redis_server):
    figures, changed = Figures(waiting=0), asyncio.Event()
    with redis_server.client() as client:
        async with holding(redis_server.url, figures, changed) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            figures.fields = {"sick": True}
            changed.set()
            await until(lambda: stored(client) == (None, None))
            assert not lease.registered.is_set()
            figures.fields = {"waiting": 1}
            changed.set()
            await until(lambda: None not in stored(client))


async def test_a_fault_of_ours_is_logged_and_the_beats_go_on(redis_server, caplog):
    figures = Figures(waiting=0)
    async with holding(redis_server.url, figures) as lease:
        await asyncio.wait_for(lease.registered.wait(), 2)
        figures.fields = {"nonsense": 1}
        await until(lambda: "heartbeat failed" in caplog.text)
        figures.fields = {"waiting": 5}
        with redis_server.client() as client:
            await until(lambda: (stored(client)[1] or figures()).waiting == 5)


async def test_an_acl_that_keeps_a_worker_to_its_own_keys_is_enough(redis_server):
    """What deploy/users.acl grants, less what needs Redis 7 (read-only patterns)."""
    commands = "ping hello select set del exists sadd scard smembers publish"
    rules = [
        *("on", ">secret", "~iso:{eu-1}:node:w1", "~iso:{eu-1}:load:w1", "~iso:{*}:ids", "~iso:regions"),
        *("resetchannels", "&iso:{eu-1}:changes:w1", "-@all", *(f"+{command}" for command in commands.split())),
    ]
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "w1", *rules)
        url = redis_server.url.replace("redis://", "redis://w1:secret@")
        async with holding(url, Figures(waiting=1)) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            await until(lambda: stored(client)[1].seq > 2)
            await lease.withdraw()
            assert lease.failures == 0


async def test_a_signed_record_verifies(redis_server):
    with redis_server.client() as client:
        async with holding(redis_server.url, Figures(), key_id="k", sign=lambda record: b"s" + record[:4]) as lease:
            await asyncio.wait_for(lease.registered.wait(), 2)
            raw = client.get(records.node_key("eu-1", "w1"))

    def verify(key, message, signature):
        return records.Scope() if (key, signature) == ("k", b"s" + message[:4]) else None

    assert isinstance(records.open_worker(raw, verify), Worker)


async def test_a_large_fleet_slows_the_beats_down(redis_server):
    with redis_server.client() as client:
        client.sadd(records.REGIONS, "us-1", "eu-1")
        client.sadd(records.ids_key("us-1"), *(f"x{n}" for n in range(4000)))
        async with holding(redis_server.url, Figures(waiting=0)) as lease:
            await until(lambda: lease.interval == pace(4001))
            await until(lambda: client.pttl(records.load_key("eu-1", "w1")) > 3500, seconds=6)


def test_the_pace_bounds_what_one_gateway_reads():
    assert pace(0) == pace(400) == records.HEARTBEAT_SECONDS
    assert pace(10_000) == pytest.approx(5.0)
    for workers in (1_000, 20_000):
        assert workers / pace(workers) <= records.HEARTBEAT_READS_PER_SECOND


@pytest.mark.parametrize(
    ("change", "worth"),
    [
        ({}, False),
        ({"waiting": 1}, False),
        ({"waiting": 2}, True),
        ({"running": 3}, False),
        ({"running": 4}, True),
        ({"backlog": 0.04}, False),
        ({"backlog": 0.06}, True),
        ({"draining": True}, True),
    ],
)
def test_what_is_worth_an_early_beat(change, worth):
    calm = Load(worker="w", boot="b", seq=1, waiting=0, running=0, backlog=0.0)
    assert differs(calm, msgspec.structs.replace(calm, **change)) is worth


def test_small_moves_of_large_figures_are_not_worth_one():
    busy = Load(worker="w", boot="b", seq=1, waiting=100, running=16, backlog=4.0)
    assert not differs(busy, msgspec.structs.replace(busy, waiting=110, backlog=4.5))
    assert differs(busy, msgspec.structs.replace(busy, waiting=130))
    assert differs(busy, None)
    assert differs(None, busy)
    assert not differs(None, None)
