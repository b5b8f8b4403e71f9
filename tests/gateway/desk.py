"""A registry at work against a real Redis, and the workers that a test plays."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from redis.asyncio import Redis

from gateway.registry import Registry
from gateway.roster import SHARED, Roster
from policies import records
from policies.records import encode_load, seal_worker
from policies.request import Change, WorkerGone
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
            await self.redis.publish(records.changes_channel(region, worker_id), records.NODE + sealed)
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
            await self.redis.publish(records.changes_channel(region, worker_id), records.LOAD + raw)


async def worst_lag(seconds: float) -> float:
    """The longest time the event loop kept a timer waiting."""
    loop, worst = asyncio.get_running_loop(), 0.0
    end = loop.time() + seconds
    while loop.time() < end:
        before = loop.time()
        await asyncio.sleep(0.01)
        worst = max(worst, loop.time() - before - 0.01)
    return worst
