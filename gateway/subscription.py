"""One Redis as a gateway hears it: a subscription, a periodic complete read, and the few things gateways write.

Heard means that the subscription stands and the last read was complete; whatever fails, the session starts over and
the fleet is served from memory. Every worker publishes on a channel of its own, so that loads are its word; records
prove themselves (signature, sequence), and goodbyes and drains are hints that make us read the keys. Above it:
registry.py; the rules: roster.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.roster import ID, SHARED, Roster
from policies import records
from policies.records import Rejected

log = logging.getLogger(__name__)

PATIENCE = 0.25
"""Seconds any Redis call may take; the client library's defaults hang for tens of seconds on a frozen server."""
READ_SECONDS = 2.0
"""Between complete reads of a small fleet; the subscription brings changes at once, the read what it missed."""
READS_PER_SECOND = 250
"""Workers a complete read covers per second at most: about 1 % of a core; larger fleets are read less often."""
CHUNK = 32
"""Workers per pipeline: about 1.5 ms of parsing during which no request is served."""
YIELD_EVERY = 32
"""Published messages handled before the event loop gets a turn, for the same reason."""
MAX_REGIONS = 256
ROW_SECONDS = 5.0
"""Between writes of our measured round trips."""
RETRY_SECONDS = (0.1, 2.0)
"""First and longest pause before a lost registry is tried again, each jittered."""
GHOST_SECONDS = 60.0
"""An id without record and lease for this long is taken out of its region's set."""


class Subscription:
    """One Redis: heard (`live`) while its subscription stands and its last read was complete."""

    def __init__(
        self,
        source: str,
        url: str,
        roster: Roster,
        count: Callable[[str], None],
        identity: tuple[str, str],
        rtts: Callable[[], Mapping[str, float]],
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.source = source
        self.live = False
        self.read_at: float | None = None
        self.tried = asyncio.Event()
        """Set once the first attempt to read it has ended, either way."""
        self._url = url
        self._roster = roster
        self._count = count
        self._gateway_region, self._gateway = identity
        self._rtts = rtts
        self._rng = rng
        self._clock = clock
        self._rtt = 0.0
        self._row_at = -ROW_SECONDS
        self._client: Redis | None = None
        self._wanted: dict[tuple[str, str], bool] = {}
        """(region, worker id) to read soon -> whether that worker said goodbye."""
        self._want = asyncio.Event()
        self._ghosts: dict[tuple[str, str], float] = {}
        self._unsent: dict[str, tuple[str, bool]] = {}

    # Its life.

    async def run(self) -> None:
        """Connect, follow, and start over when anything fails."""
        first, longest = RETRY_SECONDS
        pause = first
        while True:
            try:
                await self._alone()
            except Exception as error:  # whatever Redis does, the fleet is served from memory
                if self.live:
                    pause = first
                    self._count("registry.lost")
                if pause == first:  # once per loss, not once per attempt
                    log.warning("registry not heard", extra={"source": self.source, "error": _cause(error)})
            self.live, self._client = False, None
            self.tried.set()
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.5))
            pause = min(2 * pause, longest)

    async def _alone(self) -> None:
        """A session in its own task. Before Python 3.11.3 a failed TaskGroup leaves its task looking cancelled, and
        then the next time limit ends the task, not the wait (gh-102780): a Redis that froze was never heard again."""
        session = asyncio.get_running_loop().create_task(self._session())
        try:
            await session
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise TimeoutError("cancelled from within") from None

    async def _session(self) -> None:
        client = Redis.from_url(
            self._url,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        async with client, client.pubsub(ignore_subscribe_messages=True) as feed:
            await feed.psubscribe(records.changes_channel("*", "*"))
            await self._send_drains(client)
            await self._read(client)
            self._roster.resume(self.source, self._clock())
            self.live, self._client = True, client
            self.tried.set()
            log.info("registry heard", extra={"source": self.source, "workers": len(self._roster.members)})
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(feed))
                tasks.create_task(self._reread(client))
                tasks.create_task(self._fetch_wanted(client))

    # The subscription.

    async def _listen(self, feed: PubSub) -> None:
        handled = 0
        while True:
            message = await feed.get_message(timeout=None)
            if message is not None:
                self._published(message)
            handled += 1
            if handled % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _published(self, message: dict[str, Any]) -> None:
        region, worker_id = _of(message["channel"])
        data: bytes = message["data"]
        if region is None or worker_id is None or self._roster.source(region) != self.source:
            return
        now = self._clock()
        if data.startswith(records.LOAD):
            self._load(region, worker_id, data[len(records.LOAD) :], 0.0, now)
        elif data.startswith(records.NODE):
            self._roster.record(region, worker_id, data[len(records.NODE) :], now)
        elif data.startswith((records.GONE, records.DRAIN, records.UNDRAIN)) and worker_id in self._roster.members:
            self._look_at(region, worker_id, goodbye=data.startswith(records.GONE))

    def _load(self, region: str, worker_id: str, raw: bytes, age: float, now: float) -> None:
        load = records.decode_load(raw)
        if isinstance(load, Rejected):
            self._count(f"loads.{load.kind}")
        elif load.worker != worker_id:
            self._count("loads.misplaced")
        elif not self._roster.load(region, load, age, now):
            self._look_at(region, worker_id)

    def _look_at(self, region: str, worker_id: str, goodbye: bool = False) -> None:
        """Have a worker's keys read soon; asked for any number of times, read once."""
        if len(self._wanted) < records.MAX_WORKERS:
            self._wanted[region, worker_id] = goodbye or self._wanted.get((region, worker_id), False)
            self._want.set()

    async def _fetch_wanted(self, client: Redis) -> None:
        while True:
            await self._want.wait()
            self._want.clear()
            while self._wanted:
                region = next(iter(self._wanted))[0]
                chunk = [worker_id for place, worker_id in self._wanted if place == region][:CHUNK]
                leaving = [worker_id for worker_id in chunk if self._wanted.pop((region, worker_id))]
                await self._read_drains(client, region)
                leased = await self._read_workers(client, region, chunk)
                for worker_id in leaving:
                    if worker_id not in leased:
                        self._roster.left(worker_id, self._clock())

    # The complete read.

    async def _reread(self, client: Redis) -> None:
        while True:
            pause = max(READ_SECONDS, len(self._roster.members) / READS_PER_SECOND)
            await asyncio.sleep(pause * self._rng.uniform(0.8, 1.2))
            await self._send_drains(client)
            await self._read(client)
            await self._write_row(client)

    async def _read(self, client: Redis) -> None:
        """Read every region this registry speaks for, and let the roster judge what is missing."""
        started = self._clock()
        await client.ping()
        self._rtt = self._clock() - started
        leased: set[str] = set()
        for region in await self._regions(client):
            await self._read_drains(client, region)
            ids = await self._ids(client, region)
            for first in range(0, len(ids), CHUNK):
                leased |= await self._read_workers(client, region, ids[first : first + CHUNK])
            await self._remove_ghosts(client, region)
        self.read_at = self._clock()
        self._count("registry.reads")
        self._roster.compare(self.source, leased, started, self.read_at)

    async def _regions(self, client: Redis) -> list[str]:
        if self.source != SHARED:
            return [self.source]
        found = await _members(client, records.REGIONS, MAX_REGIONS)
        named = [name for raw in found if (name := _id(raw)) is not None]
        return [region for region in named if self._roster.source(region) == self.source]

    async def _ids(self, client: Redis, region: str) -> list[str]:
        ids = []
        for raw in await _members(client, records.ids_key(region), records.MAX_WORKERS):
            worker_id = _id(raw)
            if worker_id is None:
                self._count("records.id")
            else:
                ids.append(worker_id)
        return ids

    async def _read_workers(self, client: Redis, region: str, ids: list[str]) -> set[str]:
        """Read records and loads of some workers; the ids that hold a lease.

        GETRANGE and not MGET: a poisoned value of many megabytes is never transferred, and one key of the wrong
        type fails alone.
        """
        pipe = client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.getrange(records.node_key(region, worker_id), 0, records.MAX_RECORD_BYTES)
            pipe.getrange(records.load_key(region, worker_id), 0, records.MAX_RECORD_BYTES)
        answers = await pipe.execute(raise_on_error=False)
        now, leased = self._clock(), set()
        for worker_id, node, load in zip(ids, answers[::2], answers[1::2], strict=True):
            if self._read_worker(region, worker_id, node, load, now):
                leased.add(worker_id)
        return leased

    def _read_worker(self, region: str, worker_id: str, node: Any, load: Any, now: float) -> bool:
        if isinstance(node, Exception):  # a key of another type
            self._count("records.parse")
            node = b""
        if isinstance(load, Exception):
            self._count("loads.parse")
            load = b""
        if not load:
            if not node:
                self._ghosts.setdefault((region, worker_id), now)
            return False
        self._ghosts.pop((region, worker_id), None)
        self._roster.record(region, worker_id, node, now)
        decoded = records.decode_load(load)
        if isinstance(decoded, Rejected):
            self._count(f"loads.{decoded.kind}")
        elif decoded.worker == worker_id:
            self._roster.load(region, decoded, self._rtt / 2, now)
        else:
            self._count("loads.misplaced")
        return True

    async def _remove_ghosts(self, client: Redis, region: str) -> None:
        """Only gateways remove ids; a worker that comes back adds itself again."""
        now = self._clock()
        old = [worker_id for (place, worker_id), seen in self._ghosts.items()
               if place == region and now - seen > GHOST_SECONDS][:CHUNK]  # fmt: skip
        if old:
            await client.srem(records.ids_key(region), *old)
            for worker_id in old:
                del self._ghosts[region, worker_id]

    # What gateways write.

    async def _write_row(self, client: Redis) -> None:
        """Publish our measured round trips, every few seconds, to the registry of our own region."""
        now = self._clock()
        if now - self._row_at < ROW_SECONDS or self._roster.source(self._gateway_region) != self.source:
            return
        self._row_at = now
        row = msgspec.json.encode({region: round(seconds, 6) for region, seconds in self._rtts().items()})
        await client.set(records.rtt_key(self._gateway_region, self._gateway), row, px=int(6e3 * ROW_SECONDS))

    async def drain(self, region: str, worker_id: str, on: bool) -> bool:
        """Tell the registry now, or as soon as it is heard again. Whether it was told."""
        self._unsent[worker_id] = (region, on)
        if self._client is None:
            return False
        try:
            await self._send_drains(self._client)
        except RedisError as error:  # kept in `_unsent`; the next session sends it
            log.warning("drain not shared yet", extra={"source": self.source, "error": _cause(error)})
            return False
        return True

    async def _send_drains(self, client: Redis) -> None:
        for worker_id, (region, on) in list(self._unsent.items()):
            pipe = client.pipeline(transaction=False)
            if on:
                pipe.sadd(records.drains_key(region), worker_id)
            else:
                pipe.srem(records.drains_key(region), worker_id)
            message = records.DRAIN if on else records.UNDRAIN
            pipe.publish(records.changes_channel(region, worker_id), message + worker_id.encode())
            await pipe.execute()
            if self._unsent.get(worker_id) == (region, on):
                del self._unsent[worker_id]

    async def _read_drains(self, client: Redis, region: str) -> None:
        found = await _members(client, records.drains_key(region), records.MAX_WORKERS)
        drained = {worker_id for raw in found if (worker_id := _id(raw)) is not None}
        for worker_id, (place, on) in self._unsent.items():
            if place == region:
                (drained.add if on else drained.discard)(worker_id)
        self._roster.drains(region, drained, self._clock())


async def _members(client: Redis, key: str, most: int) -> list[bytes]:
    """At most `most` members of a set, in bounded steps; one that is there all the time is never missed below that."""
    found: dict[bytes, None] = {}
    cursor = 0
    while True:
        cursor, batch = await client.sscan(key, cursor, count=512)
        found.update((member, None) for member in batch if isinstance(member, bytes))
        if cursor == 0 or len(found) >= most:
            return list(found)[:most]


def _id(raw: bytes) -> str | None:
    """A worker id or region as it may stand in a key, else `None`."""
    text = raw.decode("ascii", "replace") if len(raw) <= 64 else ""
    return text if ID.fullmatch(text) else None


def _of(channel: bytes) -> tuple[str | None, str | None]:
    """`iso:{REGION}:changes:ID` -> REGION, ID; None for what is not well formed."""
    region, _, rest = channel.partition(b"{")[2].partition(b"}")
    return _id(region), _id(rest.rpartition(b":")[2])


def _cause(error: BaseException) -> str:
    """The first real fault inside task groups, for the log."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
