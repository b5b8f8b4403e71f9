"""The registry against a real Redis process: news in time, faults without effect, poison without harm."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from gateway import registry as module
from gateway.registry import Registry
from gateway.roster import SHARED, Roster
from policies import records
from policies.records import encode_load, seal_worker
from policies.request import Change, DrainSet, LoadSeen, WorkerGone, WorkerSeen
from tests.gateway.conftest import RedisProcess
from tests.gateway.members import load, worker

REGION = "eu-west"


class Desk:
    """A registry at work, what it told the router, and a client that plays the workers."""

    def __init__(self, url: str, sources: dict[str, str] | None = None, **options: object) -> None:
        self.changes: list[Change] = []
        self.counts: Counter[str] = Counter()
        self.asked: list[str] = []
        self.news = asyncio.Event()
        sources = sources or {SHARED: url}
        self.roster = Roster(sources, None, self._emit, self._count, self.asked.extend)
        self.registry = Registry(
            sources, self.roster, self._count, (REGION, "gw1"), lambda: {REGION: 0.012}, **options  # type: ignore[arg-type]
        )  # fmt: skip
        self.redis = Redis.from_url(url)
        self._beats = 1

    def _emit(self, change: Change, now: float) -> None:
        self.changes.append(change)
        self.news.set()

    def _count(self, name: str) -> None:
        self.counts[name] += 1
        self.news.set()

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> float:
        """Wait for something to become true; how long it took."""
        started = time.monotonic()
        async with asyncio.timeout(seconds):
            while not true():
                self.news.clear()
                try:
                    await asyncio.wait_for(self.news.wait(), 0.02)
                except TimeoutError:
                    continue
        return time.monotonic() - started

    @property
    def live(self) -> bool:
        return all(standing.live for standing in self.registry.standings())

    def seen(self) -> set[str]:
        return set(self.roster.members)

    def gone(self) -> set[str]:
        return {change.worker_id for change in self.changes if isinstance(change, WorkerGone)}

    async def register(self, worker_id: str, publish: bool = True, region: str = REGION) -> None:
        sealed = seal_worker(worker(worker_id, region))
        await self.redis.sadd(records.REGIONS, region)
        await self.redis.sadd(records.ids_key(region), worker_id)
        await self.redis.set(records.node_key(region, worker_id), sealed)
        if publish:
            await self.redis.publish(records.changes_channel(region), records.NODE + sealed)
        await self.beat(worker_id, region=region)

    async def reconnect(self) -> None:
        """The client that plays the workers forgets its connections to a Redis that was killed."""
        await self.redis.connection_pool.disconnect()
        await self.until(lambda: self.live)

    async def beat(self, *worker_ids: str, region: str = REGION) -> None:
        self._beats += 1
        for worker_id in worker_ids:
            raw = encode_load(load(worker_id, self._beats))
            await self.redis.set(records.load_key(region, worker_id), raw, px=3000)
            await self.redis.publish(records.changes_channel(region), records.LOAD + raw)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read often and retry soon, so that tests do not wait for human-sized pauses."""
    monkeypatch.setattr(module, "READ_SECONDS", 0.3)
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.05, 0.2))


@pytest.fixture
async def desk(redis_process: RedisProcess) -> AsyncIterator[Desk]:
    desk = Desk(redis_process.url)
    running = asyncio.ensure_future(desk.registry.run())
    await desk.until(lambda: desk.live)
    yield desk
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await desk.redis.aclose()


async def test_a_new_worker_is_seen_within_a_second(desk: Desk) -> None:
    await desk.register("a")
    took = await desk.until(lambda: any(isinstance(c, LoadSeen) for c in desk.changes), 1.0)
    assert took < 1.0
    assert desk.changes[0] == WorkerSeen(worker("a"))


async def test_a_worker_whose_news_was_missed_is_found_by_reading(desk: Desk) -> None:
    await desk.register("a", publish=False)
    await desk.until(lambda: "a" in desk.seen())
    await desk.until(lambda: any(isinstance(c, LoadSeen) for c in desk.changes))


async def test_a_new_region_is_heard_at_once(desk: Desk) -> None:
    await desk.register("z", region="ap-south-1")
    await desk.until(lambda: "z" in desk.seen(), 1.0)


async def test_a_goodbye_is_believed_only_when_the_lease_is_gone(desk: Desk) -> None:
    for worker_id in ("a", "b", "c"):
        await desk.register(worker_id)
    await desk.until(lambda: desk.seen() == {"a", "b", "c"})
    await desk.redis.delete(records.load_key(REGION, "b"))
    for worker_id in ("a", "b"):  # a's is forged: its lease stands
        await desk.redis.publish(records.changes_channel(REGION), records.GONE + worker_id.encode())
    await desk.until(lambda: desk.gone() == {"b"}, 1.0)
    await desk.until(lambda: desk.counts["registry.reads"] > 3)
    assert desk.seen() == {"a", "c"}


async def test_drains_are_shared_and_a_forged_one_has_no_effect(desk: Desk) -> None:
    await desk.register("a")
    await desk.until(lambda: "a" in desk.seen())
    await desk.redis.publish(records.changes_channel(REGION), records.DRAIN + b"a")
    reads = desk.counts["registry.reads"]
    await desk.until(lambda: desk.counts["registry.reads"] > reads + 1)
    assert not any(isinstance(c, DrainSet) for c in desk.changes)
    await desk.redis.sadd(records.drains_key(REGION), "a")
    await desk.redis.publish(records.changes_channel(REGION), records.DRAIN + b"a")
    await desk.until(lambda: DrainSet("a", True) in desk.changes, 1.0)
    assert await desk.registry.drain("a", False)
    assert desk.changes[-1] == DrainSet("a", False)
    assert await desk.redis.smembers(records.drains_key(REGION)) == set()
    with pytest.raises(KeyError):
        await desk.registry.drain("nobody", True)


async def test_a_drain_ordered_without_redis_holds_here_and_is_shared_later(
    desk: Desk, redis_process: RedisProcess
) -> None:
    await desk.register("a")
    await desk.until(lambda: "a" in desk.seen())
    redis_process.kill()
    await desk.until(lambda: not desk.live)
    assert not await desk.registry.drain("a", True)
    assert desk.changes[-1] == DrainSet("a", True)
    redis_process.start()
    await desk.reconnect()
    assert await desk.redis.smembers(records.drains_key(REGION)) == {b"a"}
    assert DrainSet("a", False) not in desk.changes


async def test_our_round_trips_are_published(desk: Desk) -> None:
    await desk.until(lambda: desk.counts["registry.reads"] > 1)
    key = records.rtt_key(REGION, "gw1")
    for _ in range(100):
        if await desk.redis.exists(key):
            break
        await desk.until(lambda: True)
    assert json.loads(await desk.redis.get(key)) == {REGION: 0.012}
    assert 0 < await desk.redis.pttl(key) <= 30_000


# Faults of Redis itself.


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_redis_frozen_or_killed_the_fleet_stays(desk: Desk, redis_process: RedisProcess, fault: str) -> None:
    ids = {"a", "b", "c", "d"}
    for worker_id in ids:
        await desk.register(worker_id)
    await desk.until(lambda: desk.seen() == ids)
    lag = asyncio.ensure_future(_worst_lag(4.0))
    getattr(redis_process, fault)()
    await desk.until(lambda: not desk.live, 2.0)
    worst = await lag  # longer than every lease
    assert worst < 0.25
    assert desk.seen() == ids
    assert desk.gone() == set()
    age = desk.registry.standings()[0].age
    assert age is not None
    assert age > 3.0
    if fault == "freeze":
        redis_process.thaw()
    else:
        redis_process.start()  # empty
    await desk.reconnect()
    assert desk.gone() == set()
    for worker_id in ids:
        await desk.register(worker_id)
    await desk.until(lambda: desk.roster.doubted == [])
    assert desk.seen() == ids


async def test_flushed_the_fleet_stays_and_probes_are_asked(desk: Desk) -> None:
    ids = {"a", "b", "c"}
    for worker_id in ids:
        await desk.register(worker_id)
    await desk.until(lambda: desk.seen() == ids)
    await desk.redis.flushall()
    await desk.until(lambda: desk.counts["registry.shrinks"] == 1)
    assert set(desk.asked) == ids
    await desk.until(lambda: desk.counts["registry.reads"] > 12, 8.0)
    assert desk.gone() == set()
    await desk.register("a")
    await desk.until(lambda: set(desk.roster.doubted) == {"b", "c"})


async def test_a_dead_worker_leaves_while_the_others_beat(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LEASE_SECONDS", 1.0)
    for worker_id in ("a", "b", "c"):
        await desk.register(worker_id)
    await desk.until(lambda: len(desk.seen()) == 3)
    started = time.monotonic()
    while desk.gone() == set() and time.monotonic() - started < 5:
        await desk.beat("a", "b")
        await desk.until(lambda: True)
        await asyncio.wait([asyncio.ensure_future(desk.news.wait())], timeout=0.1)
    assert desk.gone() == {"c"}
    assert 0.9 < time.monotonic() - started < 2.5


# Poison.


async def test_poisoned_records_are_dropped_and_counted(desk: Desk) -> None:
    await desk.register("good")
    good = json.loads(seal_worker(worker("x")))["record"]
    poison: dict[str, bytes] = {
        "blank": b"",
        "spaces": b"   ",
        "nan": json.dumps({"record": good.replace('"egress_usd_per_gb":0.0', '"egress_usd_per_gb":NaN')}).encode(),
        "huge": json.dumps({"record": good.replace('"power_watts":0.0', '"power_watts":1e308')}).encode(),
        "negative": json.dumps({"record": good.replace('"power_watts":0.0', '"power_watts":-1')}).encode(),
        "large": b"x" * 10_000_000,
        "binary": bytes(range(256)),
    }
    for worker_id, raw in poison.items():
        await desk.redis.sadd(records.ids_key(REGION), worker_id)
        await desk.redis.set(records.node_key(REGION, worker_id), raw)
        await desk.redis.set(records.load_key(REGION, worker_id), encode_load(load(worker_id)), px=60_000)
    await desk.redis.sadd(records.ids_key(REGION), "list", b"../../etc", b"\xff" * 200)
    await desk.redis.lpush(records.node_key(REGION, "list"), "not a string")
    await desk.redis.set(records.load_key(REGION, "list"), encode_load(load("list")))
    await desk.until(lambda: desk.counts["records.size"] == 1)
    reads = desk.counts["registry.reads"]
    await desk.until(lambda: desk.counts["registry.reads"] > reads + 1)
    assert desk.seen() == {"good"}
    assert desk.counts["records.parse"] >= 6
    assert desk.counts["records.blank"] >= 1
    assert desk.counts["records.id"] >= 2
    assert desk.live


async def test_poisoned_loads_are_dropped_and_counted(desk: Desk) -> None:
    await desk.register("a")
    await desk.until(lambda: any(isinstance(c, LoadSeen) for c in desk.changes))
    channel = records.changes_channel(REGION)
    good = encode_load(load("a", 99)).decode()
    for raw in (
        b"", b"{}", b"[]", good.replace('"waiting":0', '"waiting":-5').encode(),
        good.replace('"kv_use":0.0', '"kv_use":NaN').encode(), good.replace('"kv_use":0.0', '"kv_use":1e308').encode(),
        good.replace('"seq":99', '"seq":1e400').encode(), b"x" * 100_000,
    ):  # fmt: skip
        await desk.redis.publish(channel, records.LOAD + raw)
    for raw in (b"", b"node", b"node \xff", b"unknown words", records.GONE + b"../..", records.DRAIN):
        await desk.redis.publish(channel, raw)
    await desk.redis.lpush(records.load_key(REGION, "list"), "x")
    await desk.redis.sadd(records.ids_key(REGION), "list")
    await desk.until(lambda: desk.counts["loads.size"] == 1 and desk.counts["loads.parse"] >= 8)
    assert desk.live
    assert desk.seen() == {"a"}
    loads = [c.load.seq for c in desk.changes if isinstance(c, LoadSeen)]
    assert 99 not in loads


async def test_a_load_under_another_workers_key_is_refused(desk: Desk) -> None:
    await desk.register("a")
    await desk.register("b")
    await desk.until(lambda: desk.seen() == {"a", "b"})
    await desk.redis.set(records.load_key(REGION, "b"), encode_load(load("a", 1000)), px=60_000)
    await desk.until(lambda: desk.counts["loads.misplaced"] > 0)
    assert all(c.load.seq < 1000 for c in desk.changes if isinstance(c, LoadSeen))


async def test_junk_ids_neither_block_nor_fill_the_fleet(desk: Desk) -> None:
    pipe = desk.redis.pipeline()
    for index in range(3000):
        pipe.sadd(records.ids_key(REGION), f"junk{index}")
        pipe.set(records.node_key(REGION, f"junk{index}"), b"{}")
        pipe.set(records.load_key(REGION, f"junk{index}"), b"{}")
    await pipe.execute()
    lag = asyncio.ensure_future(_worst_lag(1.0))
    await desk.register("good")
    await desk.until(lambda: desk.counts["records.parse"] >= 3000, 10.0)
    assert await lag < 0.1
    assert desk.seen() == {"good"}


async def test_ghosts_are_removed_from_the_set(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GHOST_SECONDS", 0.5)
    await desk.register("a")
    await desk.redis.sadd(records.ids_key(REGION), "ghost")
    reads = desk.counts["registry.reads"]
    await desk.until(lambda: desk.counts["registry.reads"] > reads + 4)
    assert await desk.redis.smembers(records.ids_key(REGION)) == {b"a"}


async def test_registries_of_regions_fail_alone(redis_process: RedisProcess) -> None:
    dead = "redis://127.0.0.1:1"
    desk = Desk(redis_process.url, {"eu-west": redis_process.url, "us-east": dead})
    running = asyncio.ensure_future(desk.registry.run())
    try:
        await desk.register("a")
        await desk.register("z", region="us-east")  # in the wrong registry
        await desk.until(lambda: desk.seen() == {"a"})
        standings = {standing.source: standing for standing in desk.registry.standings()}
        assert standings["eu-west"].live
        assert standings["us-east"].age is None
        assert not standings["us-east"].live
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await desk.redis.aclose()


async def _worst_lag(seconds: float) -> float:
    """The longest time the event loop kept a timer waiting."""
    loop, worst = asyncio.get_running_loop(), 0.0
    end = loop.time() + seconds
    while loop.time() < end:
        before = loop.time()
        await asyncio.sleep(0.01)
        worst = max(worst, loop.time() - before - 0.01)
    return worst
