"""This worker's place in the registry: its signed static record and the load record whose presence is its lease.

Redis is never on a request's path: when it is gone the worker keeps serving and keeps trying, and whatever of its
records vanished (a flush, a failover) is written again with the next heartbeat. No load means no lease: a sidecar
whose engine is sick answers None and is withdrawn. The bytes are policies/records.py's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from policies import records

log = logging.getLogger(__name__)

SOCKET_TIMEOUT = 0.25
"""Seconds; the library's defaults hang for tens of seconds on a frozen server."""
BEAT_TIMEOUT = 1.0
"""A whole beat, name resolution and connecting included."""
EARLY_GAP = 0.05
"""Least seconds between two beats, however much changes: 20 a second at most, in bursts."""
RETRY_SECONDS = 1.0
"""Longest pause between attempts while Redis is gone; each is drawn from half of it to all of it, so that a fleet
does not come back as one herd."""
CENSUS_SECONDS = 5.0
"""How often the fleet is counted to pace the heartbeat: two small reads."""
LEASES_PER_BEAT = 3
"""A lease outlives three beats even when a large fleet has slowed them down."""

CONNECTION_ERRORS = (RedisError, OSError, TimeoutError)


def connect(url: str) -> Redis:
    """A client that fails fast and never retries by itself."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )


class Lease:
    """Keeps one worker registered for as long as `run` runs."""

    def __init__(
        self,
        redis: Redis,
        worker: records.Worker,
        load: Callable[[], records.Load | None],
        changed: asyncio.Event,
        rng: random.Random,
        key_id: str = "",
        sign: records.Sign | None = None,
    ) -> None:
        self.worker = worker
        self._written: records.Worker | None = None
        """The static record as it stands in the registry, as far as we know."""
        self.registered = asyncio.Event()
        self.failures = 0
        """Beats that failed since start, for /metrics."""
        self.interval = records.HEARTBEAT_SECONDS
        self._redis = redis
        self._load = load
        self._changed = changed
        self._rng = rng
        self._key_id = key_id
        self._sign = sign
        self._sent: records.Load | None = None
        self._counted_at = -CENSUS_SECONDS
        self._lost = False

    async def run(self) -> None:
        """Register, then beat until cancelled. Never ends by itself.

        Asks whether it was cancelled, because redis-py 8 loses a cancellation that meets a reply just arriving.
        """
        task = asyncio.current_task()
        assert task is not None
        while not task.cancelling():
            try:
                async with asyncio.timeout(BEAT_TIMEOUT):
                    heard = await self.beat()
                if heard:
                    self._found()
            except CONNECTION_ERRORS as error:
                self._lose(error)
            except Exception:
                self.failures += 1
                log.exception("heartbeat failed")
            if not task.cancelling():
                await self._pause()

    async def beat(self) -> bool:
        """Renew the lease once; write what is missing from the registry. Raises CONNECTION_ERRORS.

        Whether the registry was spoken to: without a load there is nothing to say.
        """
        load = self._load()
        if load is None:
            if self._sent is None:
                return False
            await self.withdraw()
            return True
        known = await self._renew(load) if self._written is self.worker else False
        if not known:
            await self._register()
            await self._renew(load)
        self._sent = load
        self.registered.set()
        await self._census()
        return True

    def describe(self, endpoints: tuple[records.Endpoint, ...]) -> None:
        """The next beat writes the static record anew, with these figures, a higher sequence and a new signature."""
        self.worker = msgspec.structs.replace(self.worker, endpoints=endpoints)

    async def withdraw(self) -> None:
        """Give the lease up and say so. The id stays in the region's set: only gateways remove ids."""
        region, worker_id = self.worker.region, self.worker.id
        self._sent = self._written = None
        self.registered.clear()
        pipe = self._redis.pipeline(transaction=False)
        pipe.delete(records.load_key(region, worker_id))
        pipe.delete(records.node_key(region, worker_id))
        pipe.publish(records.changes_channel(region, worker_id), records.GONE + worker_id.encode())
        await pipe.execute()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _register(self) -> None:
        """Write and publish the static record, with a sequence above every earlier one."""
        seq = max(int(time.time() * 1e3), self.worker.seq + 1)
        self.worker = worker = msgspec.structs.replace(self.worker, seq=seq)
        sealed = records.seal_worker(worker, self._key_id, self._sign)
        region, worker_id = self.worker.region, self.worker.id
        pipe = self._redis.pipeline(transaction=False)
        pipe.sadd(records.REGIONS, region)
        pipe.set(records.node_key(region, worker_id), sealed)
        pipe.sadd(records.ids_key(region), worker_id)
        pipe.publish(records.changes_channel(region, worker_id), records.NODE + sealed)
        await pipe.execute()
        self._written = worker

    async def _renew(self, load: records.Load) -> bool:
        """Write and publish the load record; False if the rest of the registration is gone."""
        region, worker_id = self.worker.region, self.worker.id
        raw = records.encode_load(load)
        lease = max(records.LEASE_SECONDS, LEASES_PER_BEAT * self.interval)
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(records.load_key(region, worker_id), raw, px=int(lease * 1e3))
        pipe.publish(records.changes_channel(region, worker_id), records.LOAD + raw)
        pipe.exists(records.node_key(region, worker_id))
        pipe.sadd(records.ids_key(region), worker_id)
        _, _, stored, added = await pipe.execute()
        return bool(stored) and not added

    async def _census(self) -> None:
        """Count the fleet now and then, and slow down so that one gateway's reads stay bounded."""
        now = time.monotonic()
        if now - self._counted_at < CENSUS_SECONDS:
            return
        self._counted_at = now
        pipe = self._redis.pipeline(transaction=False)
        for region in await self._redis.smembers(records.REGIONS):
            pipe.scard(records.ids_key(region.decode() if isinstance(region, bytes) else region))
        self.interval = pace(sum(await pipe.execute()))

    async def _pause(self) -> None:
        """Wait for the next beat's turn, jittered, or until the load has changed much."""
        loop = asyncio.get_running_loop()
        if self._lost:
            await asyncio.sleep(self._rng.uniform(0.5, 1.0) * RETRY_SECONDS)
            return
        due = loop.time() + self.interval * self._rng.uniform(0.9, 1.1)
        await asyncio.sleep(EARLY_GAP)
        while (left := due - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
            self._changed.clear()
            if differs(self._sent, self._load()):
                return
            await asyncio.sleep(min(EARLY_GAP, max(due - loop.time(), 0.0)))

    def _lose(self, error: BaseException) -> None:
        self.failures += 1
        if not self._lost:
            log.warning("registry unreachable, serving on and retrying: %s", str(error) or type(error).__name__)
        self._lost = True

    def _found(self) -> None:
        if self._lost:
            log.warning("registry reachable again")
        self._lost = False


def pace(workers: int) -> float:
    """Seconds between heartbeats in a fleet of this size: one gateway process reads all of them."""
    return max(records.HEARTBEAT_SECONDS, workers / records.HEARTBEAT_READS_PER_SECOND)


def differs(sent: records.Load | None, now: records.Load | None) -> bool:
    """Whether the gateways should learn of this change before the next regular beat."""
    if sent is None or now is None:
        return sent is not now
    if sent.draining != now.draining:
        return True
    if _moved(sent.waiting or 0, now.waiting or 0, floor=2) or _moved(sent.running or 0, now.running or 0, floor=4):
        return True
    return _moved(sent.backlog or 0.0, now.backlog or 0.0, floor=0.05)


def _moved(before: float, after: float, floor: float) -> bool:
    """Whether a figure moved by a quarter and by at least `floor`, its smallest step worth a message."""
    return abs(after - before) >= max(floor, 0.25 * before)
