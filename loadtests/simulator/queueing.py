"""A worker in closed form: prefill one by one, then decode in a slot of its own. Two events per request.

    prefill   (overhead + prompt / speed) * (1 + interference * decoding / slots), one job at a time, in a free slot
    decode    each further token takes decode_s + decode_batch_s * (jobs at work when it began)

Both times the noise of the request and the slowness of the moment at which they begin (algorithm.md 5.1).
"""

from __future__ import annotations

from bisect import insort
from typing import Any

from loadtests.simulator.call import DECODING, OVER, PREFILLING, WAITING, Job
from loadtests.simulator.machine import Service
from loadtests.simulator.serving import Worker
from loadtests.simulator.world import Queue
from policies.reason import Reason


class Queueing(Worker):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._edf = self.serving.queue is Queue.EDF
        self._prefilling: Job | None = None
        self._decoding: set[Job] = set()
        self._ends: list[float] = []
        """When those decoding will be through, in order."""
        self._queued_s = 0.0
        """Seconds of prefill that wait, noise and company aside."""

    def take(self, job: Job) -> None:
        self.waiting += 1
        self.queued_tokens += job.prompt
        self._queued_s += job.service.prefill(job.prompt)
        self.line.put(job)
        if self._prefilling is None:
            self._begin()

    def drop(self, job: Job) -> None:
        now = self.timeline.now
        if job.stage == WAITING:
            self._leave_queue(job)
            job.stage = OVER  # its place in the queue is skipped when its turn comes
            return
        if job.stage == PREFILLING:
            self.running -= 1
            self._prefilling = None
            self._charge(job, now - job.started, 0.0)
        else:
            self._release(job)
            whole = job.ends - job.first
            job.generated = 1 + int((job.call.output - 1) * (now - job.first) / whole) if whole > 0.0 else 1
            self._charge(job, job.first - job.started, now - job.first)
        self._begin()

    def jobs(self) -> list[Job]:
        here = [job for job in self.line.jobs() if job.stage == WAITING]
        at_work = sorted(self._decoding, key=lambda job: job.call.number)
        return here + at_work + ([self._prefilling] if self._prefilling is not None else [])

    # What it works off.

    def _begin(self) -> None:
        """Start on the next job, if the accelerator and a slot are free."""
        while self._prefilling is None and self.waiting and self.running < self.slots:
            job = self.line.take()
            if job.stage != WAITING:
                continue
            self._leave_queue(job)
            now = self.timeline.now
            service = job.service
            seconds = service.prefill(job.prompt) * self._pace(service, now)
            if self._edf and now + seconds + job.way.mean > job.due:
                self.refuse(job, Reason.DEADLINE_EXCEEDED)
                continue
            job.stage = PREFILLING
            job.started = now
            job.queue = now - job.arrived
            self._prefilling = job
            self.running += 1
            self.timeline.at(now + seconds * job.call.noise, self._prefilled, job)

    def _prefilled(self, job: Job) -> None:
        """The first token is there."""
        if job.stage != PREFILLING:
            return  # dropped in the meantime
        now = self.timeline.now
        job.first = now
        job.generated = 1
        self._prefilling = None
        more = job.call.output - 1
        if more > 0:
            service = job.service
            token = (service.decode_s + service.decode_batch_s * self.running) * self.slow.factor(now) * self.slowed
            job.stage = DECODING
            job.ends = ends = now + more * token * job.call.noise
            self._decoding.add(job)
            insort(self._ends, ends)
            if job.call.stream:
                self.tell(job, job.edge.began)
            self.timeline.at(ends, self._decoded, job)
        else:
            self.running -= 1
            self._charge(job, now - job.started, 0.0)
            self.tell(job, job.edge.done)
        self._begin()
        if self.changed is not None:
            self.changed(self)

    def _decoded(self, job: Job) -> None:
        """The last token is there."""
        if job.stage != DECODING:
            return
        self._release(job)
        job.generated = job.call.output
        self._charge(job, job.first - job.started, job.ends - job.first)
        self.tell(job, job.edge.done)
        if self._prefilling is None:
            self._begin()

    def _leave_queue(self, job: Job) -> None:
        self.waiting -= 1
        self.queued_tokens -= job.prompt
        self._queued_s = self._queued_s - job.service.prefill(job.prompt) if self.waiting else 0.0

    def _release(self, job: Job) -> None:
        self.running -= 1
        self._decoding.remove(job)
        self._ends.remove(job.ends)

    def _charge(self, job: Job, prefill: float, decode: float) -> None:
        """A busy accelerator is divisible: a decoding job has one slot of it."""
        self.busy_s += prefill
        self.charge(job, prefill, decode, prefill + decode / job.service.slots)

    def _pace(self, service: Service, now: float) -> float:
        """By how much company and slowness stretch a prefill that begins now."""
        company = 1.0 + service.interference * len(self._ends) / service.slots
        return company * self.slow.factor(now) * self.slowed

    # What it knows of its wait.

    def wait(self, now: float) -> float:
        need = self.running + self.waiting + 1 - self.slots
        prefill = self._prefill_wait(now)
        if need <= 0:
            return prefill
        ends = self._ends
        if need <= len(ends):
            return max(prefill, ends[need - 1] - now)
        rounds = (need - len(ends)) * self.main.full_share(self.mean_output) * self.slow.factor(now) * self.slowed
        return max(prefill, (ends[-1] - now if ends else 0.0) + rounds)

    def backlog(self, now: float) -> float:
        need = self.running + self.waiting + 1 - self.slots
        prefill = self._prefill_wait(now)
        if need <= 0:
            return prefill
        return max(prefill, need * self.main.full_share(self.mean_output) * self.slow.factor(now) * self.slowed)

    def _prefill_wait(self, now: float) -> float:
        """Until all that waits has been prefilled. An engine knows its own pace of late, so this is no secret."""
        if not self.waiting and self._prefilling is None:
            return 0.0
        pace = self._pace(self.main, now)
        under_way = 0.0
        job = self._prefilling
        if job is not None:
            under_way = max(0.0, job.started + job.service.prefill(job.prompt) * pace - now)
        return under_way + self._queued_s * pace
