"""Round trips to every worker, over pooled connections from the data plane's source address.

Only a request on a reused connection is timed: the first one on a connection pays for the handshake and merely warms
it. Probing is paced by the fleet's size, so that a thousand workers cost no more than two hundred. A decision may ask
for a probe at once (`ask`), within a budget; nothing here is awaited by a request. Results go to `report`, as changes
for the router and the roster.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec

from policies import records
from policies.probing import ProbeBudget
from policies.records import Load, Worker
from policies.request import Change, LoadSeen, ProbeFailed, RoundTrip

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Default seconds between two probes of a worker."""
PROBES_PER_SECOND = 200
"""Most probes a second: at about 150 microseconds of CPU each, 3 % of a core. Asked-for ones have their own budget."""
ASKED_AT_ONCE = 4
"""Asked-for probes of one worker under way, so many that one far off can be asked as often; each has a connection."""
CONCURRENCY = 64
"""Probes under way at once; with every worker silent they all wait a whole timeout. As many again may be asked for."""
SLOWEST = 8
"""A silent worker is probed this many times less often at most, so that it does not take the others' turns."""
MIN_TIMEOUT = 1.0
TIMEOUT_RTTS = 4
IDLE_SECONDS = 60.0
"""Pooled connections are kept this long; workers keep theirs for 75 s."""
PROBE_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
"""What a worker can make of a probe, in the client's words."""


class Target(msgspec.Struct):
    """A worker under observation."""

    worker: Worker
    rtt: float = 0.0
    """The last one measured."""
    failures: int = 0
    """In a row."""
    due: float = 0.0
    """When it is to be probed next; queue entries that say otherwise are out of date."""
    busy: bool = False
    urgent: bool = False
    """Whether somebody waits for its next answer."""
    asking: int = 0
    """Probes under way that a decision asked for."""


class Probes:
    """The probing of a whole fleet."""

    def __init__(
        self,
        report: Callable[[Change, float], None],
        count: Callable[[str], None],
        interval: float = INTERVAL,
        source_address: str | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._count = count
        self._interval = interval
        self._source = (source_address, 0) if source_address else None
        self._rng = rng or random.Random()  # noqa: S311 (jitter)
        self._clock = clock
        self._targets: dict[str, Target] = {}
        self._queue: list[tuple[float, int, Target]] = []
        self._tickets = itertools.count()
        self._wake = asyncio.Event()
        self._budget = ProbeBudget()
        self._asking = 0
        """Asked-for probes under way."""
        self._launch: Callable[[Target], None] | None = None
        """Starts an asked-for probe; None while nothing runs."""

    # Whom to probe.

    def follow(self, worker: Worker) -> None:
        """Probe a worker from now on, at once for the first time; a changed record keeps what was measured."""
        target = self._targets.get(worker.id)
        if target is not None:
            target.worker = worker
            return
        target = self._targets[worker.id] = Target(worker)
        self._schedule(target, 0.0)

    def forget(self, worker_id: str) -> None:
        self._targets.pop(worker_id, None)
        self._budget.forget(worker_id)

    def verify(self, worker_ids: Iterable[str]) -> None:
        """Probe these at once: somebody doubts that they are gone."""
        for worker_id in worker_ids:
            target = self._targets.get(worker_id)
            if target is not None:
                target.failures = 0
                target.urgent = True
                self._schedule(target, 0.0)

    def ask(self, worker_ids: Iterable[str]) -> None:
        """Probe these now, as far as the budget goes, whatever their schedule; it stays as it is."""
        now = self._clock()
        for worker_id in worker_ids:
            target = self._targets.get(worker_id)
            if target is None:
                continue
            full = target.asking >= ASKED_AT_ONCE or self._asking >= CONCURRENCY
            if self._launch is None or full or not self._budget.take(worker_id, now):
                self._count("probing.dropped")
                continue
            self._count("probing.asked")
            self._launch(target)

    def pace(self) -> float:
        """Seconds between two probes of one worker that answers."""
        return max(self._interval, len(self._targets) / PROBES_PER_SECOND)

    def _schedule(self, target: Target, delay: float) -> None:
        target.due = self._clock() + delay
        heapq.heappush(self._queue, (target.due, next(self._tickets), target))
        if self._queue[0][2] is target:
            self._wake.set()

    # Probing.

    async def run(self) -> None:
        """Probe whoever is due, until cancelled."""
        connector = aiohttp.TCPConnector(
            limit=0, limit_per_host=1 + ASKED_AT_ONCE, keepalive_timeout=IDLE_SECONDS, local_addr=self._source
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_tracing(self._clock)],
            auto_decompress=False,
        )
        slots = asyncio.Semaphore(CONCURRENCY)
        async with session, asyncio.TaskGroup() as tasks:
            self._launch = functools.partial(self._begin, tasks, session)
            try:
                while True:
                    target = await self._next()
                    await slots.acquire()
                    target.busy, target.urgent = True, False
                    self._count("probing.periodic")
                    tasks.create_task(self._probe(session, target)).add_done_callback(lambda _: slots.release())
            finally:
                self._launch = None

    async def _next(self) -> Target:
        """The next target due; entries of forgotten or busy ones are dropped."""
        while True:
            self._wake.clear()
            now = self._clock()
            while self._queue and self._queue[0][0] <= now:
                due, _, target = heapq.heappop(self._queue)
                if due == target.due and not target.busy and self._targets.get(target.worker.id) is target:
                    return target
            pause = self._queue[0][0] - now if self._queue else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._wake.wait()

    async def _probe(self, session: aiohttp.ClientSession, target: Target) -> None:
        try:
            timed = await self._get(session, target)
            if not timed:  # the connection is warm now: measure at once, a new worker needs a figure
                await self._get(session, target)
            target.failures = 0
        except PROBE_FAILURES as error:
            target.failures += 1
            self._count("probes.failed")
            if target.failures == 1:
                extra = {"worker": target.worker.id, "error": f"{type(error).__name__}: {error}"}
                log.info("probe failed", extra=extra)
            self._tell(target, ProbeFailed(target.worker.id))
        except Exception:
            self._fault(target)
        finally:
            target.busy = False
            if self._targets.get(target.worker.id) is target:
                slower = min(SLOWEST, 2 ** max(0, target.failures - 3))
                pause = self.pace() * slower * self._rng.uniform(0.8, 1.2)
                self._schedule(target, 0.0 if target.urgent else pause)

    def _begin(self, tasks: asyncio.TaskGroup, session: aiohttp.ClientSession, target: Target) -> None:
        """Start an asked-for probe."""
        target.asking += 1
        self._asking += 1
        tasks.create_task(self._answer(session, target)).add_done_callback(lambda _: self._answered(target))

    def _answered(self, target: Target) -> None:
        target.asking -= 1
        self._asking -= 1

    async def _answer(self, session: aiohttp.ClientSession, target: Target) -> None:
        """One asked-for probe. Its failure is no verdict on the worker: the periodic ones count, at their own pace."""
        try:
            await self._get(session, target)
        except PROBE_FAILURES:
            self._count("probes.failed")
        except Exception:
            self._fault(target)

    def _fault(self, target: Target) -> None:
        """A bug must cost one probe, not the probing."""
        log.exception("probe fault", extra={"worker": target.worker.id})
        self._count("loop.faults")

    async def _get(self, session: aiohttp.ClientSession, target: Target) -> bool:
        """One request; whether it was on a reused connection and so was timed. Raises what a probe may fail of."""
        trace = SimpleNamespace(sent=None)
        worker = target.worker
        seconds = max(MIN_TIMEOUT, TIMEOUT_RTTS * target.rtt)
        async with session.get(
            f"http://{worker.address}{worker.health_path}",
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
            trace_request_ctx=trace,
        ) as response:
            rtt = None if trace.sent is None else self._clock() - trace.sent
            body = await _read(response)
        load = _load(worker, body)
        if load is None and response.status != 200:
            raise ValueError(f"status {response.status}")
        if load is not None and load.worker != worker.id:
            raise ValueError("another worker answers at this address")
        if rtt is not None:
            target.rtt = rtt
            self._tell(target, RoundTrip(worker.id, rtt))
        if load is not None:
            self._tell(target, LoadSeen(load, target.rtt / 2))
        self._count("probes.warmed" if rtt is None else "probes.timed")
        return rtt is not None

    def _tell(self, target: Target, change: Change) -> None:
        if self._targets.get(target.worker.id) is target:
            self._report(change, self._clock())


def _tracing(clock: Callable[[], float]) -> aiohttp.TraceConfig:
    """Note in the request's context when it started on a reused connection; a new connection clears the note."""
    tracing = aiohttp.TraceConfig()

    async def reused(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.sent = clock()

    async def created(_session: Any, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.sent = None

    tracing.on_connection_reuseconn.append(reused)
    tracing.on_connection_create_start.append(created)
    return tracing


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """A small body, so that the connection can be reused. Raises ValueError when it is not small."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(records.MAX_RECORD_BYTES):
        body += chunk
        if len(body) > records.MAX_RECORD_BYTES:
            raise ValueError("the answer to a probe is too large")
    return bytes(body)


def _load(worker: Worker, body: bytes) -> Load | None:
    """The load record in the answer of one of our own workers; foreign engines answer what they like."""
    load = records.decode_load(body) if worker.engine == "isochrone" else None
    return load if isinstance(load, Load) else None
