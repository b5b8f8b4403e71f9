"""One Redis as it is heard: news in time, hints checked, poison without harm."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from gateway import subscription
from gateway.app import end
from policies import records
from policies.records import encode_load, seal_worker
from policies.request import DrainSet, LoadSeen, WorkerSeen
from tests.gateway.conftest import RedisProcess
from tests.gateway.desk import REGION, Desk, worst_lag
from tests.gateway.members import load, worker


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
        await desk.redis.publish(records.changes_channel(REGION, worker_id), records.GONE + worker_id.encode())
    await desk.until(lambda: desk.gone() == {"b"}, 1.0)
    await desk.until(lambda: desk.counts["registry.reads"] > 3)
    assert desk.seen() == {"a", "c"}


async def test_drains_are_shared_and_a_forged_one_has_no_effect(desk: Desk) -> None:
    await desk.register("a")
    await desk.until(lambda: "a" in desk.seen())
    await desk.redis.publish(records.changes_channel(REGION, "a"), records.DRAIN + b"a")
    reads = desk.counts["registry.reads"]
    await desk.until(lambda: desk.counts["registry.reads"] > reads + 1)
    assert not any(isinstance(c, DrainSet) for c in desk.changes)
    await desk.redis.sadd(records.drains_key(REGION), "a")
    await desk.redis.publish(records.changes_channel(REGION, "a"), records.DRAIN + b"a")
    await desk.until(lambda: DrainSet("a", True) in desk.changes, 1.0)
    assert await desk.registry.drain("a", False)
    assert desk.changes[-1] == DrainSet("a", False)
    assert await desk.redis.smembers(records.drains_key(REGION)) == set()
    with pytest.raises(KeyError):
        await desk.registry.drain("nobody", True)


async def test_our_round_trips_are_published(desk: Desk) -> None:
    await desk.until(lambda: desk.counts["registry.reads"] > 1)
    key = records.rtt_key(REGION, "gw1")
    for _ in range(100):
        if await desk.redis.exists(key):
            break
        await desk.until(lambda: True)
    assert json.loads(await desk.redis.get(key)) == {REGION: 0.012}
    assert 0 < await desk.redis.pttl(key) <= 30_000


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
    channel = records.changes_channel(REGION, "a")
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
    lag = asyncio.ensure_future(worst_lag(1.0))
    await desk.register("good")
    await desk.until(lambda: desk.counts["records.parse"] >= 3000, 10.0)
    assert await lag < 0.1
    assert desk.seen() == {"good"}


async def test_ghosts_are_removed_from_the_set(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "GHOST_SECONDS", 0.5)
    await desk.register("a")
    await desk.redis.sadd(records.ids_key(REGION), "ghost")
    reads = desk.counts["registry.reads"]
    await desk.until(lambda: desk.counts["registry.reads"] > reads + 4)
    assert await desk.redis.smembers(records.ids_key(REGION)) == {b"a"}


async def test_few_commands_and_keys_are_enough(redis_process: RedisProcess, brisk: None) -> None:
    """What an ACL has to grant a gateway: deploy/users.acl grants these and nothing that could harm a worker."""
    commands = "ping hello select sscan getrange set sadd srem publish psubscribe subscribe punsubscribe unsubscribe"
    async with Redis.from_url(redis_process.url) as admin:
        granted = [f"+{command}" for command in commands.split()]
        await admin.execute_command(
            "ACL", "SETUSER", "gw", "on", ">pass", "~iso:*", "resetchannels", "&iso:{*}:changes:*", "-@all", *granted
        )
        desk = Desk(f"redis://gw:pass@127.0.0.1:{redis_process.port}")
        workers = Desk(redis_process.url)
        running = asyncio.ensure_future(desk.registry.run())
        await workers.register("a")
        await desk.until(lambda: "a" in desk.seen())
        assert await desk.registry.drain("a", True)
        await desk.until(lambda: desk.counts["registry.reads"] > 2)
        assert await admin.exists(records.rtt_key(REGION, "gw1"))
        assert desk.counts["registry.lost"] == 0
        await end([running])
        await desk.redis.aclose()
        await workers.redis.aclose()
