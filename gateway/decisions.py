"""The decision log: a sample of what was decided and what came of it, written for replays (`isochrone simulate`).

Off unless configured. A request is sampled before anything else is done for it, a sampled one costs one encoding, and
the writing happens once a second in a thread. What cannot be kept (a slow disk, a full one) costs a count, never a
request and never memory. The records are `policies/decision.py`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.config import DecisionLogConfig
from gateway.ring import Trace
from gateway.rotation import Rotation
from policies.decision import Decided, Group, Opened, Served, Surveyed, decided, encode, mark
from policies.fleet import Fleet
from policies.records import Worker
from policies.worker import WorkerState

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
SURVEY_SECONDS = 60.0
"""Between surveys of the fleet: prices rarely change faster, and one takes a kilobyte or two."""
CHANGED_SECONDS = 5.0
"""Between surveys when workers come or go."""
SURVEYED_AT_ONCE = 250
"""Workers described between two turns of the event loop: about half a millisecond."""
PENDING_BYTES = 4 * 1024 * 1024
"""Most that waits to be written; at 500 bytes a record, 8,000 sampled requests a second."""


class FullError(Exception):
    """The disk is too slow: the record is dropped."""


class DecisionLog:
    """The sink of the ring. `run` writes; nothing reaches the disk without it."""

    def __init__(
        self,
        config: DecisionLogConfig,
        identity: tuple[str, str],
        fleet: Fleet,
        pepper: str,
        count: Callable[[str, int], None],
        rng: random.Random,
        wall: Callable[[], float],
    ) -> None:
        """`identity` is region and gateway; `pepper` keys the hashes of tenants."""
        self._region, self._gateway = identity
        self._sample = config.sample
        self._tenants = config.tenants
        self._pepper = hashlib.blake2b(pepper.encode(), digest_size=32, person=b"decision log").digest()
        self._fleet = fleet
        self._count = count
        self._draw = rng.random
        self._wall = wall
        self._file = Rotation(Path(config.path), config.max_bytes, config.keep)
        self._pending: list[bytes] = []
        self._bytes = 0
        self._requests = 0
        self._surveyed: Surveyed | None = None
        self._workers = 0
        """In that survey."""
        self._marks: dict[str, tuple[Worker, str]] = {}
        """By worker id, for the record it was made of."""
        self._failing = False

    def __call__(self, trace: Trace) -> None:
        """Take a finished trace. Raises FullError."""
        if trace.request is None:  # refused before it was understood: nothing was decided
            return
        self._requests += 1
        if self._draw() >= self._sample:
            return
        if self._bytes > PENDING_BYTES:
            raise FullError
        line = encode(self._record(trace))
        self._pending.append(line)
        self._bytes += len(line)

    def _record(self, trace: Trace) -> Decided:
        request = trace.request
        assert request is not None
        took = 0.0 if trace.finished is None else trace.finished - request.arrived
        return decided(
            request,
            ((tried.dispatch, tried.outcome, tried.cost) for tried in trace.attempts),
            at=trace.wall - took,
            finished=trace.finished,
            tenant=self.tenant(request.tenant),
            shed=trace.shed,
            status=trace.status,
            marks=self._mark,
        )

    def _mark(self, worker: Worker) -> str:
        known = self._marks.get(worker.id)
        if known is None or known[0] is not worker:
            self._marks[worker.id] = known = (worker, mark(worker))
        return known[1]

    def tenant(self, name: str) -> str:
        """A tenant as the log names it. Hashes are equal on all gateways with one `auth.pepper`."""
        if self._tenants == "none" or not name:
            return ""
        if self._tenants == "plain":
            return name
        return hashlib.blake2b(name.encode(), digest_size=8, key=self._pepper).hexdigest()

    # Writing.

    async def run(self) -> None:
        """Write what comes until cancelled."""
        age = SURVEY_SECONDS
        while True:
            changed = len(self._fleet.workers) != self._workers
            if age >= SURVEY_SECONDS or (changed and (age >= CHANGED_SECONDS or not self._workers)):
                await self._survey()
                age = 0.0
            age += FLUSH_SECONDS
            await self.flush()
            await asyncio.sleep(FLUSH_SECONDS)

    async def flush(self) -> None:
        """Write what waits. A disk that takes nothing costs these records."""
        lines, self._pending, self._bytes = self._pending, [], 0
        if not lines:
            return
        try:
            await asyncio.to_thread(self._file.write, lines, self._head)
        except OSError as error:
            self._count("ring.sink_failed", len(lines))
            if not self._failing:
                log.warning("decisions not logged", extra={"file": self._file.path, "error": error})
            self._failing = True
            return
        if self._failing:
            log.info("decisions logged again", extra={"file": self._file.path})
        self._failing = False

    async def close(self) -> None:
        """Write the rest."""
        await self._survey()
        await self.flush()
        await asyncio.to_thread(self._file.close)

    def _head(self) -> bytes:
        opened = Opened(at=self._wall(), gateway=self._gateway, region=self._region, sample=self._sample)
        known = self._surveyed
        if known is None:
            return encode(opened)
        return encode(opened) + encode(msgspec.structs.replace(known, requests=0))

    async def _survey(self) -> None:
        """Describe the fleet, a slice at a time, and put it between the decisions. Nobody's is not worth a line."""
        if not self._fleet.workers:
            return
        found: dict[str, _Alike] = {}
        for number, state in enumerate(list(self._fleet.workers.values())):
            name = self._mark(state.record)
            if name not in found:
                found[name] = _Alike(state.record)
            found[name].add(state)
            if number % SURVEYED_AT_ONCE == SURVEYED_AT_ONCE - 1:
                await asyncio.sleep(0)
        self._workers = sum(alike.count for alike in found.values())
        trips = self._fleet.regions().items()
        self._surveyed = surveyed = Surveyed(
            at=round(self._wall(), 3),
            groups=tuple(alike.group(name) for name, alike in found.items()),
            round_trips={name: (round(t.mean, 6), round(t.jitter, 6)) for name, t in trips if t.samples},
            requests=self._requests,
        )
        self._requests = 0
        for gone in self._marks.keys() - self._fleet.workers.keys():
            del self._marks[gone]
        line = encode(surveyed)
        self._pending.append(line)
        self._bytes += len(line)


class _Alike:
    """Workers of one group: one of their records, and what was learned of each endpoint, summed up."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.count = 0
        self._speed = [0.0] * len(worker.endpoints)
        self._pace = [0.0] * len(worker.endpoints)
        self._charge = [0.0] * len(worker.endpoints)

    def add(self, state: WorkerState) -> None:
        self.count += 1
        for index, node in enumerate(state.nodes):
            self._speed[index] += node.speed.factor
            self._pace[index] += node.pace.factor
            self._charge[index] += node.charge.factor

    def group(self, name: str) -> Group:
        worker, count = self._worker, self.count
        return Group(
            mark=name,
            region=worker.region,
            count=count,
            accelerator=worker.accelerator,
            cloud=worker.cloud,
            power_watts=worker.power_watts,
            price=worker.price,
            egress_usd_per_gb=worker.egress_usd_per_gb,
            serves=tuple(
                Served(
                    model=endpoint.model,
                    variant=endpoint.variant,
                    curve=endpoint.curve,
                    slots=endpoint.max_batch,
                    quality=endpoint.quality,
                    speed=round(self._speed[index] / count, 4),
                    pace=round(self._pace[index] / count, 4),
                    charge=round(self._charge[index] / count, 4),
                )
                for index, endpoint in enumerate(worker.endpoints)
            ),
        )
