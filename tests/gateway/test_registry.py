"""Whole registries that freeze, die, forget everything, or lie: the fleet stays."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.app import end
from policies import records
from policies.request import DrainSet
from tests.gateway.conftest import RedisProcess
from tests.gateway.desk import REGION, Desk, worst_lag


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


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_redis_frozen_or_killed_the_fleet_stays(desk: Desk, redis_process: RedisProcess, fault: str) -> None:
    ids = {"a", "b", "c", "d"}
    for worker_id in ids:
        await desk.register(worker_id)
    await desk.until(lambda: desk.seen() == ids)
    lag = asyncio.ensure_future(worst_lag(4.0))
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
        await end([running])
        await desk.redis.aclose()
