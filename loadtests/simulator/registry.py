"""The control plane: records and heartbeats on their way to the gateways, leases, and the gateways' own probes.

    Registry     every worker's heartbeats, published to every gateway: late, lost, or not at all
    Membership   whom one gateway believes to be in the fleet, by the rules of gateway/roster.py: silence of one worker
                 ends its membership, silence of most of a region is doubted until probes fail too

Each region has a registry of its own. An idle control plane costs as much as a busy one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from loadtests.simulator.edge import Edge
from loadtests.simulator.serving import Worker
from loadtests.simulator.timeline import Act, Timeline
from loadtests.simulator.world import Control
from policies.records import Load
from policies.records import Worker as Record
from policies.request import LoadSeen, ProbeFailed, RoundTrip, WorkerGone, WorkerSeen

SWEEP_S = 0.25
"""Between two looks for lapsed leases (gateway/registry.py)."""
FATAL_PROBES = 3
"""As in gateway/roster.py."""
MIN_PROBE_TIMEOUT_S = 1.0
PROBE_TIMEOUT_RTTS = 4
PROBES_PER_SECOND = 200
JITTER = (0.8, 1.2)
"""Of the probes' intervals; as in gateway/probes.py."""
MIN_BEATS_PER_LEASE = 3.0
EARLY_S = 0.05
"""Between two early reports of one worker at least (algorithm.md 2.1)."""
BUCKETS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Edges of the wait, in seconds, whose crossing is worth an early report."""


class Member:
    """A worker in the fleet of one gateway."""

    __slots__ = ("doubted", "failures", "heard", "record", "worker")

    def __init__(self, worker: Worker, record: Record, now: float) -> None:
        self.worker = worker
        self.record = record
        self.heard = now
        self.doubted = False
        self.failures = 0
        """Probes in a row that failed."""


class Membership:
    """The fleet as one gateway believes it to be. Drives the edge's contender."""

    def __init__(self, edge: Edge, control: Control, rng: random.Random, over: Callable[[], bool]) -> None:
        """`over` says whether nothing depends on it any more."""
        self.edge = edge
        self._over = over
        self.lease = max(control.lease_s, MIN_BEATS_PER_LEASE * control.heartbeat_s)
        self.members: dict[str, Member] = {}
        self.silenced: set[str] = set()
        """Regions whose registry is known not to answer: no lease ends there."""
        self._probe_s = control.probe_s
        self._loaded = control.on_probes
        self._uniform = rng.uniform

    # What the registry says.

    def recorded(self, message: tuple[Worker, Record]) -> None:
        """A worker's static record, new or changed."""
        worker, record = message
        edge, now = self.edge, self.edge.timeline.now
        member = self.members.get(worker.id)
        if member is None:
            member = self.members[worker.id] = Member(worker, record, now)
            edge.timeline.at(now + edge.ways[worker.region].draw() * 2, self._probe, member)
        elif record.seq <= member.record.seq:
            return
        member.record = record
        member.heard = now
        edge.observe(WorkerSeen(record))

    def beaten(self, message: tuple[Worker, Record, Load]) -> None:
        """A heartbeat."""
        worker, record, load = message
        member = self.members.get(worker.id)
        if member is None or member.record.seq < record.seq:
            self.recorded((worker, record))
            member = self.members[worker.id]
        member.heard = self.edge.timeline.now
        member.doubted = False
        self.edge.observe(LoadSeen(load, 0.0))

    def left(self, worker: Worker) -> None:
        """It said goodbye."""
        if worker.id in self.members and not worker.up:
            self._remove(worker.id)

    def sweep(self, _: object) -> None:
        """End the leases that lapsed; doubt it when most of a region fell silent."""
        if self._over():
            return
        now = self.edge.timeline.now
        since = now - self.lease / 2
        silent = [member for member in self.members.values() if member.heard < since or member.doubted]
        if silent:
            self._judge(silent, now - self.lease)
        self.edge.timeline.at(now + SWEEP_S, self.sweep)

    def _judge(self, silent: list[Member], since: float) -> None:
        """Of those that have been silent for half a lease, end the membership of whoever was last heard before."""
        quiet = Counter(member.worker.region for member in silent)
        members = Counter(member.worker.region for member in self.members.values())
        for member in silent:
            region = member.worker.region
            if member.heard >= since or region in self.silenced:
                continue
            if member.doubted:
                if member.failures >= FATAL_PROBES:
                    self._remove(member.worker.id)
            elif 2 * quiet[region] > members[region]:
                member.doubted, member.failures = True, 0
            else:
                self._remove(member.worker.id)

    def heard_again(self, region: str) -> None:
        """A region's registry answers again: everyone gets a whole lease to be heard in."""
        self.silenced.discard(region)
        now = self.edge.timeline.now
        for member in self.members.values():
            if member.worker.region == region:
                member.heard = max(member.heard, now)

    def _remove(self, worker_id: str) -> None:
        del self.members[worker_id]
        self.edge.observe(WorkerGone(worker_id))

    def forget(self) -> None:
        """The gateway starts anew, from its snapshot of the members."""
        for member in self.members.values():
            self.edge.observe(WorkerSeen(member.record))

    # Probes.

    def _pace(self) -> float:
        """Seconds between two probes of one worker."""
        return max(self._probe_s, len(self.members) / PROBES_PER_SECOND)

    def _probe(self, member: Member) -> None:
        """A probe reaches its worker, or nobody; the next one follows the answer."""
        edge, worker = self.edge, member.worker
        if self.members.get(worker.id) is not member or self._over():
            return
        now, way = edge.timeline.now, edge.ways[worker.region]
        if worker.up and not way.cut:
            back = way.draw()
            load = worker.load() if self._loaded else None
            edge.timeline.at(now + back, self._answered, (member, way.draw() + back, load))
        else:
            timeout = max(MIN_PROBE_TIMEOUT_S, PROBE_TIMEOUT_RTTS * 2 * way.mean)
            pause = timeout if way.cut else way.mean  # a refused connection is known after one round trip
            edge.timeline.at(now + pause, self._unanswered, member)

    def _answered(self, answer: tuple[Member, float, Load | None]) -> None:
        member, rtt, load = answer
        edge, worker = self.edge, member.worker
        if self.members.get(worker.id) is not member:
            return
        member.failures = 0
        edge.observe(RoundTrip(worker.id, rtt))
        if load is not None:
            edge.observe(LoadSeen(load, rtt / 2))
        self._again(member)

    def _unanswered(self, member: Member) -> None:
        if self.members.get(member.worker.id) is member:
            member.failures += 1
            self.edge.observe(ProbeFailed(member.worker.id))
            self._again(member)

    def _again(self, member: Member) -> None:
        timeline, way = self.edge.timeline, self.edge.ways[member.worker.region]
        timeline.at(timeline.now + self._pace() * self._uniform(*JITTER) + way.draw(), self._probe, member)


class Registry:
    """All workers' heartbeats."""

    def __init__(
        self, timeline: Timeline, control: Control, workers: list[Worker], memberships: list[Membership],
        rng: random.Random, over: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.timeline = timeline
        self._over = over
        self._gateways = {
            region: [(membership, membership.edge.ways[region]) for membership in memberships]
            for region in {worker.region for worker in workers}
        }
        self.workers = workers
        self.memberships = memberships
        self._muted: Counter[str] = Counter()
        """How many faults keep a region's registry from hearing anybody."""
        self._control = control
        self._rng = rng
        self._records: dict[str, Record] = {}
        self._shown: dict[str, tuple[int, float]] = {}

    def begin(self) -> None:
        """Set every worker's first heartbeat and every gateway's first sweep, each at a moment of its own."""
        for worker in self.workers:
            if self._control.early:
                worker.changed = self.changed
            at = worker.nodes.from_s
            if at:
                self.timeline.at(at, self.appear, worker)
            else:
                self.appear(worker)
            self.timeline.at(at + self._rng.uniform(0.0, self._control.heartbeat_s), self._beat, worker)
        for membership in self.memberships:
            self.timeline.at(self._rng.uniform(0.0, SWEEP_S), membership.sweep)

    def appear(self, worker: Worker) -> None:
        """A worker starts and registers, if nothing keeps it from that."""
        if worker.barred:
            return
        worker.start()
        self.write(worker)

    def write(self, worker: Worker) -> None:
        """Publish its static record as it is now. Those of the very beginning are known to everybody."""
        record = self._records[worker.id] = worker.record()
        for membership in self.memberships:
            if self.timeline.now == 0.0:
                membership.recorded((worker, record))
            else:
                self._publish(worker, membership, membership.recorded, (worker, record))

    def leave(self, worker: Worker) -> None:
        """It says goodbye."""
        for membership in self.memberships:
            self._publish(worker, membership, membership.left, worker)

    def mute(self, region: str, by: int) -> None:
        """A fault of a region's registry begins (1) or ends (-1). Gateways know that it does not answer."""
        self._muted[region] += by
        for membership in self.memberships:
            if self._muted[region]:
                membership.silenced.add(region)
            else:
                membership.heard_again(region)

    def _beat(self, worker: Worker) -> None:
        if self._over():
            return
        self.timeline.at(self.timeline.now + self._control.heartbeat_s, self._beat, worker)
        if worker.up:
            self.report(worker)

    def report(self, worker: Worker) -> None:
        """Publish its load."""
        load = worker.load()
        if self._muted[worker.region]:
            return
        message = (worker, self._records[worker.id], load)
        at, loss, draw = self.timeline.at, self._control.loss, self._rng.random
        sent = self.timeline.now + self._control.publish_delay_s
        for membership, way in self._gateways[worker.region]:
            if not way.cut and not (loss and draw() < loss):
                at(sent if self._control.nearby else sent + way.draw(), membership.beaten, message)

    def changed(self, worker: Worker) -> None:
        """A worker's wait may have crossed an edge worth an early report."""
        now = self.timeline.now
        bucket = sum(edge < worker.backlog(now) for edge in BUCKETS)
        shown, at = self._shown.get(worker.id, (0, -1.0))
        if bucket != shown and now - at >= EARLY_S:
            self._shown[worker.id] = bucket, now
            self.report(worker)

    def _publish(self, worker: Worker, membership: Membership, act: Act, message: object) -> None:
        way = membership.edge.ways[worker.region]
        if way.cut or self._muted[worker.region]:
            return
        if self._control.loss and self._rng.random() < self._control.loss:
            return
        on_the_way = 0.0 if self._control.nearby else way.draw()
        self.timeline.at(self.timeline.now + self._control.publish_delay_s + on_the_way, act, message)
