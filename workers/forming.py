"""Which of the waiting jobs are the next batch, and when: pure, no clock, no I/O, no state.

`Slack` is what workers use; the other three are what servers without deadlines do, to compare with on one's own
traffic. All see one line of the queue (one model, one bucket), most urgent first, at a moment when the accelerator is
free. What expired has been taken out before (queue.py); the service time is learned (learning.py).

Slack's three rules, for a batch of n items that takes `fixed + each * n` seconds:

1. What cannot finish any more, even alone, is not executed (Clockwork, OSDI'20): it would only make others late.
2. The batch is the longest whose most urgent member still meets its deadline. Under overload that alone is a trap: the
   most urgent has hardly any time left, so batches shrink, the accelerator loses throughput, and the next one has even
   less (Nexus, SOSP'19, answers it with 'early drop'). So the schedule is played forward over what waits, with and
   without the first k jobs, and the k with which most of the waiting meet their deadlines is passed over. They stay in
   the queue while there is hope. Without overload nobody is lost, and k is 0.
3. A cycle that starts now yields n answers in `fixed + each*n`; one that waits for the next arrival, expected after
   1/rate, n + 1 in `1/rate + fixed + each*(n+1)`. The second rate is the higher exactly where n < rate * fixed: waiting
   pays while the batch is smaller than what arrives in the time that every engine call costs anyway. So a lone client
   never waits, and a busy accelerator, which finds more than that whenever it gets free, hardly ever. The wait ends in
   time for the batch as it will have grown; and, the rate being a guess, once all jobs together have waited as long as
   a call costs, which bounds the loss (Dooly, Goldman, Scott: TCP acknowledgement delay, J. ACM 48, 2001).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

if TYPE_CHECKING:
    from workers.queue import Job

HORIZON = 2
"""Full batches that are played forward: two or four times as many decide no better (six curves and mixes of deadlines,
loads of 0.2 to 1.3: within 0.5 points of goodput), and the next turn looks again."""

TICK = 0.001
"""Event loops' timers count whole milliseconds: a wait ends a tick early, and a shorter one is none."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=60_000)]


class Service(NamedTuple):
    """What batches take, in seconds: `fixed + each * items`."""

    fixed: float
    each: float
    caution: float = 1.0
    """What plans multiply it by, so that a batch that takes longer than usual is still in time."""

    def seconds(self, items: float) -> float:
        return self.fixed + self.each * items

    def planned(self, items: float) -> float:
        return self.caution * self.seconds(items)

    def items_in(self, seconds: float, most: int) -> int:
        """The largest batch, up to `most`, that plans to be done in so many seconds."""
        room = seconds / self.caution - self.fixed
        return most if room >= self.each * most else max(int(room / self.each), 0)


class Scene(NamedTuple):
    """What a batch is formed from."""

    line: Sequence[Job]
    """Who waits, most urgent first; at least one."""
    now: float
    free_since: float
    """Since when the accelerator has been free."""
    service: Service
    most: int
    """Items in a batch."""
    rate: float
    """Arrivals per second in this line, a guess."""
    alone: bool = True
    """Whether nothing else wants the accelerator."""


class Formed(NamedTuple):
    """What to do: execute `batch`, or wait until `until` unless something arrives; and refuse the hopeless."""

    batch: Sequence[Job] = ()
    hopeless: Sequence[Job] = ()
    """Not to be executed: they cannot meet their deadlines any more."""
    until: float = -math.inf


class Slack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slack", tag_field="kind"):
    """As large as the slack of its most urgent job allows, and waiting only where that pays."""

    def form(self, scene: Scene) -> Formed:
        now, service = scene.now, scene.service
        seen = scene.line[: HORIZON * scene.most]
        hopeless = [job for job in seen if job.deadline < now + service.seconds(job.items)]
        live = [job for job in seen if job.deadline >= now + service.planned(job.items)]
        live = live or [job for job in seen if job.deadline >= now + service.seconds(job.items)]  # better than nothing
        if not live:
            return Formed(hopeless=hopeless)
        forecast = Forecast(live, service, scene.most)
        first = forecast.passed_over(now)
        batch = live[first : max(forecast.end(first, now), first + 1)]
        if scene.alone and len(batch) + len(hopeless) == len(scene.line):
            until = self._worth_waiting(scene, batch) - TICK
            if until > now:
                return Formed(hopeless=hopeless, until=until)
        return Formed(batch, hopeless)

    def _worth_waiting(self, scene: Scene, batch: Sequence[Job]) -> float:
        """Until when (rule 3); a time that has passed where it does not pay."""
        items = sum(job.items for job in batch)
        expected = min(scene.rate * scene.service.fixed, scene.most)
        if items >= expected:
            return -math.inf
        latest = min(job.deadline for job in batch) - scene.service.planned(math.ceil(expected))
        waited = sum(scene.now - max(job.arrived, scene.free_since) for job in batch)
        return min(latest, scene.now + (scene.service.fixed - waited) / len(batch))


class Forecast:
    """Waiting jobs, played forward in batches as large as the first member of each allows."""

    def __init__(self, jobs: Sequence[Job], service: Service, most: int) -> None:
        self._service = service
        self._most = most
        self._items = [job.items for job in jobs]
        self._ends = list(itertools.accumulate(self._items))
        """Items up to and with each job."""
        due = itertools.accumulate((job.deadline for job in reversed(jobs)), min)
        self._due = list(due)[::-1]
        """The nearest deadline of each job and those after it. It is nearly always its own: only patience (queue.py)
        puts a later deadline before an earlier one."""

    def end(self, first: int, now: float) -> int:
        """Where the batch ends that starts now with job `first`; `first` itself where not even that is in time."""
        room = self._service.items_in(self._due[first] - now, self._most)
        return bisect.bisect_right(self._ends, self._ends[first] - self._items[first] + room, lo=first)

    def kept(self, first: int, now: float, than: int = -1) -> int:
        """How many of the jobs from `first` on are in time, one batch after another; given up where it cannot be more
        `than` so many. Written out, because it is the only thing here that takes time: 0.1 ms in deep overload."""
        ends, items, due, most, count = self._ends, self._items, self._due, self._most, len(self._ends)
        fixed, each = self._service.planned(0), self._service.caution * self._service.each
        kept, at = 0, now + fixed
        while first < count and kept + count - first > than:
            left = due[first] - at
            room = most if left >= each * most else int(left / each)
            if room < items[first]:
                first += 1
                continue
            before = ends[first] - items[first]
            end = bisect.bisect_right(ends, before + room, first)
            at += fixed + each * (ends[end - 1] - before)
            kept += end - first
            first = end
        return kept

    def passed_over(self, now: float) -> int:
        """How many of the most urgent to leave out, so that most are in time (rule 2)."""
        count = len(self._ends)
        best, most = 0, self.kept(0, now)
        for first in range(1, count):
            if count - first <= most:
                break
            kept = self.kept(first, now, most)
            if kept > most:
                best, most = first, kept
        return best


class Alone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="none", tag_field="kind"):
    """No batching: one job per engine call, in the order of arrival."""

    def form(self, scene: Scene) -> Formed:
        return Formed([min(scene.line, key=_arrival)])


class FixedWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fixed_window", tag_field="kind"):
    """Collects for a fixed time from when it could take the first job, as TorchServe does for max_batch_delay."""

    ms: Milliseconds

    def form(self, scene: Scene) -> Formed:
        queue = sorted(scene.line, key=_arrival)
        closes = max(queue[0].arrived, scene.free_since) + self.ms / 1e3
        if scene.now < closes and _items(queue) < scene.most:
            return Formed(until=closes)
        return Formed(_up_to(scene.most, queue))


class FixedDelay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fixed_delay", tag_field="kind"):
    """As Triton's dynamic batcher: a full batch at once, else what waits once the oldest has waited so long.

    The preferred batch size is the largest; `ms` is its max_queue_delay_microseconds. Like Triton's queue, it forgets
    nobody's turn: first come, first served.
    """

    ms: Milliseconds

    def form(self, scene: Scene) -> Formed:
        queue = sorted(scene.line, key=_arrival)
        due = queue[0].arrived + self.ms / 1e3
        if scene.now < due and _items(queue) < scene.most:
            return Formed(until=due)
        return Formed(_up_to(scene.most, queue))


Batching = Slack | Alone | FixedWindow | FixedDelay


def _arrival(job: Job) -> float:
    return job.arrived


def _items(jobs: Sequence[Job]) -> int:
    return sum(job.items for job in jobs)


def _up_to(most: int, jobs: Sequence[Job]) -> Sequence[Job]:
    """As many from the front as fit, one at least."""
    ends = list(itertools.accumulate(job.items for job in jobs))
    return jobs[: max(bisect.bisect_right(ends, most), 1)]
