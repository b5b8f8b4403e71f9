"""Who is in the fleet, as one gateway believes: the registry's rules without Redis and without a clock.

Records and loads come in as bytes or structs with `now`; changes for the router come out of `emit`. Invariants: a
worker's (boot, seq) never goes backwards; silence of one worker ends its membership, silence of most of a registry
is doubted instead, and a doubted worker leaves only when its probes fail too. `registry.py` feeds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import msgspec

from policies import records
from policies.records import Load, Rejected, Verify, Worker
from policies.request import Change, DrainSet, LoadSeen, WorkerGone, WorkerSeen

V = TypeVar("V")

SHARED = "*"
"""The source that stands for every region without a registry of its own."""
DOUBT_SECONDS = 30.0
"""How long a doubted worker that answers probes may stay missing once its registry shows most of the fleet again:
longer than a slow worker's reconnection, short enough that an abandoned one does not linger."""
FATAL_PROBES = 3
"""Probes in a row that must fail before a doubted worker is dropped; one may be lost on the way."""
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What `records.Id` allows: ids of the set are checked before they become parts of keys."""


class Member(msgspec.Struct):
    """A worker in the fleet."""

    worker: Worker
    sealed: bytes
    """Its record as it was signed, so that a snapshot can be verified again."""
    source: str
    heard: float
    """When its last heartbeat came, on our clock."""
    load_seq: int = -1
    doubted: float | None = None
    """Since when the registry's word that it is gone is not believed."""
    failures: int = 0
    """Probes in a row that failed while doubted."""


class Roster:
    """The members of the fleet by worker id, and which of them are drained."""

    def __init__(
        self,
        sources: Collection[str],
        verify: Verify | None,
        emit: Callable[[Change, float], None],
        count: Callable[[str], None],
        ask: Callable[[list[str]], None],
    ) -> None:
        self.members: dict[str, Member] = {}
        self.drained: dict[str, set[str]] = {}
        """By region."""
        self.version = 0
        """Grows with every change of membership, of a static record or of a drain."""
        self._sources = frozenset(sources)
        self._verify = verify
        self._emit = emit
        self._count = count
        self._ask = ask
        self._refused: dict[str, int] = {}
        self._past: dict[str, int] = {}

    def source(self, region: str) -> str | None:
        """The registry that speaks for a region, if any is configured."""
        if region in self._sources:
            return region
        return SHARED if SHARED in self._sources else None

    @property
    def doubted(self) -> list[str]:
        return [worker_id for worker_id, member in self.members.items() if member.doubted is not None]

    def trust(self, verify: Verify | None) -> None:
        """Use new keys from now on. Members stay; records refused before are looked at again."""
        self._verify = verify
        self._refused.clear()

    # What the registry says.

    def record(self, region: str, worker_id: str | None, raw: bytes, now: float) -> bool:
        """Take a worker's static record: read under `worker_id`, or published (`None`). Whether it is a member now."""
        known = self.members.get(worker_id) if worker_id is not None else None
        if known is not None and known.sealed == raw:
            return True
        if worker_id is not None and self._refused.get(worker_id) == hash(raw):
            return known is not None
        worker = self._open(region, worker_id, raw)
        if isinstance(worker, Rejected):
            self._count(f"records.{worker.kind}")
            if worker_id is not None:
                _remember(self._refused, worker_id, hash(raw))
            return known is not None
        self._admit(worker, raw, now)
        return True

    def load(self, region: str, load: Load, age: float, now: float) -> bool:
        """Take a worker's load record. False when its static record has to be read first."""
        member = self.members.get(load.worker)
        if member is None or member.worker.boot != load.boot:
            return load.worker in self._refused
        if member.worker.region != region:
            self._count("loads.misplaced")
            return True
        if load.seq < member.load_seq:
            self._count("loads.replayed")
            return True
        if load.seq > member.load_seq:
            member.load_seq = load.seq
            self._heard(member, now)
            self._emit(LoadSeen(load, age), now)
        return True

    def left(self, worker_id: str, now: float) -> None:
        """A worker said goodbye, and the registry holds no lease of it."""
        if worker_id in self.members:
            self._remove(worker_id, now)

    def compare(self, source: str, leased: Collection[str], started: float, now: float) -> None:
        """Judge a complete read, begun at `started`, that found leases of these workers only."""
        mine = self._of(source)
        missing = [m for m in mine if m.worker.id not in leased and m.heard < started]
        if 2 * len(missing) > len(mine):
            self._doubt(missing, now)
            return
        for member in missing:
            if member.doubted is not None and now - member.doubted > DOUBT_SECONDS:
                self._remove(member.worker.id, now)

    def drains(self, region: str, worker_ids: Iterable[str], now: float) -> None:
        """Take the whole set of workers of a region that operators drain."""
        before, after = self.drained.get(region, set()), set(worker_ids)
        self.drained[region] = after
        self.version += before != after
        for worker_id in (before ^ after) & self.members.keys():
            self._emit(DrainSet(worker_id, worker_id in after), now)

    def drain(self, worker_id: str, on: bool, now: float) -> None:
        """Take one operator's word for a member."""
        region = self.members[worker_id].worker.region
        drained = self.drained.get(region, set())
        self.drains(region, drained | {worker_id} if on else drained - {worker_id}, now)

    # What time and probes say.

    def sweep(self, source: str, now: float) -> None:
        """End the leases that lapsed in a registry that is being heard; when most fell silent at once, doubt it."""
        mine, lease = self._of(source), self.lease()
        lapsed = [m for m in mine if m.doubted is None and now - m.heard > lease]
        # Half a lease of silence is six missed heartbeats: counting these too sees a common cause before the first
        # lease has lapsed, whatever the phase of each worker's heartbeat.
        quiet = sum(m.doubted is not None or now - m.heard > lease / 2 for m in mine)
        if 2 * quiet > len(mine):
            self._doubt(lapsed, now)
        else:
            for member in lapsed:
                self._remove(member.worker.id, now)
        for member in mine:
            if member.doubted is not None and member.failures >= FATAL_PROBES:
                self._remove(member.worker.id, now)

    def resume(self, source: str, now: float) -> None:
        """A registry is heard again: everyone gets a whole lease to be heard in."""
        for member in self._of(source):
            member.heard = max(member.heard, now)

    def probed(self, worker_id: str, alive: bool) -> None:
        """Take a probe's verdict; it matters for doubted workers only."""
        member = self.members.get(worker_id)
        if member is not None and member.doubted is not None:
            member.failures = 0 if alive else member.failures + 1

    def lease(self) -> float:
        """Seconds of silence that end a lease; grows once workers slow their heartbeats for a large fleet."""
        return max(records.LEASE_SECONDS, 3 * len(self.members) / records.HEARTBEAT_READS_PER_SECOND)

    # The snapshot.

    def restore(self, sealed: Iterable[bytes], now: float) -> int:
        """Take the records of a snapshot: verified again, served, and doubted until somebody confirms them."""
        restored = []
        for raw in sealed:
            worker = self._open(None, None, raw)
            if isinstance(worker, Rejected):
                self._count(f"records.{worker.kind}")
            elif worker.id not in self.members:
                self._admit(worker, raw, now)
                restored.append(worker.id)
                self.members[worker.id].doubted = now
        self._ask(restored)
        return len(restored)

    def sealed(self) -> list[bytes]:
        """The members' records as they were signed."""
        return [member.sealed for member in self.members.values()]

    # Inside.

    def _of(self, source: str) -> list[Member]:
        return [member for member in self.members.values() if member.source == source]

    def _open(self, region: str | None, worker_id: str | None, raw: bytes) -> Worker | Rejected:
        if not raw:
            return Rejected("blank")
        worker = records.open_worker(raw, self._verify)
        if isinstance(worker, Rejected):
            return worker
        if self.source(worker.region) is None or region not in (None, worker.region):
            return Rejected("misplaced")
        if worker_id not in (None, worker.id):
            return Rejected("misplaced")
        known = self.members.get(worker.id)
        newest = known.worker.seq if known is not None else self._past.get(worker.id, 0)
        if worker.seq < newest:
            return Rejected("replayed")
        if known is None and len(self.members) >= records.MAX_WORKERS:
            return Rejected("full")
        return worker

    def _admit(self, worker: Worker, raw: bytes, now: float) -> None:
        source = self.source(worker.region)
        assert source is not None
        known = self.members.get(worker.id)
        same_boot = known is not None and known.worker.boot == worker.boot
        member = Member(worker=worker, sealed=raw, source=source, heard=now)
        if known is not None and same_boot:
            member.load_seq = known.load_seq
        self.members[worker.id] = member
        self._refused.pop(worker.id, None)
        self.version += 1
        self._emit(WorkerSeen(worker), now)
        if worker.id in self.drained.get(worker.region, ()):
            self._emit(DrainSet(worker.id, True), now)

    def _heard(self, member: Member, now: float) -> None:
        member.heard = now
        member.failures = 0
        if member.doubted is not None:
            member.doubted = None
            self.version += 1  # a snapshot waits until nobody is doubted

    def _doubt(self, members: list[Member], now: float) -> None:
        new = [m for m in members if m.doubted is None]
        for member in new:
            member.doubted = now
            member.failures = 0
        if new:
            self._count("registry.shrinks")
            self._ask([m.worker.id for m in new])

    def _remove(self, worker_id: str, now: float) -> None:
        member = self.members.pop(worker_id)
        _remember(self._past, worker_id, member.worker.seq)
        self.version += 1
        self._emit(WorkerGone(worker_id), now)


def _remember(memory: dict[str, V], key: str, value: V) -> None:
    """Keep at most as many entries as there may be workers, the newest."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > records.MAX_WORKERS:
        del memory[next(iter(memory))]
