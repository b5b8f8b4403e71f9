"""How the jobs of one lane use the accelerator: `Batched` runs them together, `Slotted` steps them token by token.

A runner decides synchronously on the event loop (`plan`), hands back a call for the accelerator thread, and books
what came of it (`settle` or `fail`) on the loop again. Only that one thread ever touches an engine. batcher.py says
whose turn it is; queue.py owns the jobs until `plan` takes them.
"""

from __future__ import annotations

import collections
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from policies.reason import Reason
from policies.records import Curve, Endpoint
from workers.engines import StoppedError
from workers.forming import Batching, Scene, Service, Slack
from workers.learning import Learned, Rate
from workers.queue import Job, Line, Queue, Refused, Result, State, Token

log = logging.getLogger(__name__)

PACE_WEIGHT = 0.1
"""Weight of the newest step in the moving average of step times: about the last ten steps."""

FAILED = Refused(Reason.INTERNAL, "The engine failed.", executed=True)
HOPELESS = Refused(Reason.DEADLINE_EXCEEDED, "The deadline can no longer be met by this worker.")
STOPPED = Refused(Reason.DEADLINE_EXCEEDED, "Nobody waited for it any more.", executed=True)

Call = Callable[[], Any]
Run = Callable[[Sequence[Any]], Sequence[Any]]
"""Engine call of a batched lane: the jobs' work -> their answers, in order. Raises ValueError for bad input."""


class Slots(Protocol):
    """What a text engine offers (workers/engines/slots.py): slots that advance together, one token a step."""

    slots: int

    @property
    def kv_use(self) -> float: ...
    @property
    def taken(self) -> Mapping[int, int]: ...
    def start(self, prompt: Sequence[int], sampling: Any) -> int: ...
    def step(self) -> Sequence[Any]: ...
    def stop(self, slot: int) -> None: ...


class Tally:
    """Plain counters of one lane since start, for /metrics."""

    def __init__(self) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        """By `ok`, `cancelled` or the reason's label."""
        self.calls = 0
        self.items = 0
        self.tokens = 0
        self.accel = 0.0
        self.queued = 0.0
        self.started = 0


class Wait(NamedTuple):
    """A lane leaves the accelerator free until then, unless something arrives."""

    until: float


class Runner(Protocol):
    """One lane's way to use the accelerator."""

    lane: str
    endpoint: Endpoint
    tally: Tally
    clock: Callable[[], float]
    """What its engine's work is charged by, on the accelerator thread."""

    @property
    def running(self) -> Collection[Job]: ...
    @property
    def curve(self) -> Curve: ...
    def settle(self, outcome: Any, accel: float, now: float) -> None: ...
    def fail(self, now: float) -> None: ...


def lane_of(endpoint: Endpoint) -> str:
    return f"{endpoint.model}:{endpoint.variant}"


class Batched:
    """Jobs that are answered by one engine call each, taken together up to `max_batch` items."""

    def __init__(
        self,
        endpoint: Endpoint,
        run: Run,
        batching: Batching | None = None,
        *,
        length: int = 0,
        stop: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`length` is what items are padded to where the curve was measured, if they are; `stop` makes the engine give
        up the call it is in, from any thread; `clock` is CPU time for engines that compute in the calling thread."""
        self.endpoint = endpoint
        self.lane = lane_of(endpoint)
        self.tally = Tally()
        self.clock = clock
        self.running: Sequence[Job] = ()
        self._run = run
        self._batching = batching or Slack()
        self._length = length
        self._stop = stop
        prior = Service(endpoint.curve.base - endpoint.curve.item, endpoint.curve.item)
        self._took = Learned(prior, endpoint.max_batch)
        """Seconds by the clock until the last answer is on its way: what deadlines are held against. To write a large
        batch's answers takes this process a while too."""
        self._spent = Learned(prior, endpoint.max_batch)
        """Accelerator seconds: what the record says."""
        self._rates: dict[int, Rate] = {}
        self._last: Job | None = None
        """Of the batch that was done last."""

    def arrived(self, job: Job, now: float) -> None:
        self._rates.setdefault(job.bucket, Rate()).arrived(now)

    def service(self, bucket: int = 0) -> Service:
        """What a batch of this bucket takes here: an item costs by the length it is padded to."""
        learned = self._took.service
        return learned._replace(each=learned.each * self._weight(bucket))

    def most(self, bucket: int = 0) -> int:
        """Items in a batch: of longer ones fewer, so that no batch holds the accelerator for much longer."""
        return max(int(self.endpoint.max_batch / max(self._weight(bucket), 1.0)), 1)

    @property
    def curve(self) -> Curve:
        """The endpoint's curve as its own traffic says, once there was some."""
        if not self._spent.sure:
            return self.endpoint.curve
        spent = self._spent.service
        return msgspec.structs.replace(self.endpoint.curve, base=spent.seconds(1), item=spent.each)

    def plan(self, queue: Queue, line: Line, now: float, free_since: float, alone: bool) -> Call | Wait:
        """Take the next batch of a line out of the queue; refuse who can no longer be served in time."""
        bucket = line[1]
        formed = self._batching.form(
            Scene(
                queue.line(line), now, free_since, self.service(bucket), self.most(bucket),
                self._rates[bucket].at(now) if bucket in self._rates else 0.0, alone,
            )
        )  # fmt: skip
        queue.take(formed.hopeless)
        for job in formed.hopeless:
            end(job, HOPELESS, self.tally, now)
            self._took.refused()
        if not formed.batch:
            return Wait(formed.until)
        queue.take(formed.batch)
        begin(formed.batch, self.tally, now)
        self.running = formed.batch
        return functools.partial(self._attempt, [job.work for job in formed.batch])

    def settle(self, outcome: Sequence[Result | Refused], accel: float, now: float) -> None:
        """Answer every job, charging each by its share of the items."""
        items = sum(job.items for job in self.running)
        self.tally.calls += 1
        self.tally.items += items
        self.tally.accel += accel
        if all(isinstance(event, Result) for event in outcome):
            self._last = self.running[-1]
            self._spent.observe(self._weight(self._last.bucket) * items, accel)
        for job, event in zip(self.running, outcome, strict=True):
            job.accel = accel * job.items / items
            job.batch = items
            end(job, event, self.tally, now)
        self.running = ()

    def answered(self, job: Job, now: float | None) -> None:
        """Whoever waited for this job goes on: the batch is over when the last of it does."""
        if job is self._last and job.started is not None and now is not None:
            self._took.observe(self._weight(job.bucket) * job.batch, now - job.started)

    def fail(self, now: float) -> None:
        for job in self.running:
            end(job, FAILED, self.tally, now)
        self.running = ()

    def abandon(self) -> None:
        """Give up the running batch if nobody waits for any of it, where the engine can."""
        if self._stop is not None and self.running and all(job.state is State.ENDED for job in self.running):
            self._stop()

    def _weight(self, bucket: int) -> float:
        return bucket / self._length if self._length else 1.0

    def _attempt(self, works: Sequence[Any]) -> list[Result | Refused]:
        """On the accelerator thread: one call for all; if that is refused, each alone, so that one bad input costs
        only itself."""
        try:
            return [Result(value) for value in self._run(works)]
        except StoppedError:
            return [STOPPED] * len(works)
        except MemoryError as error:
            return [Refused(Reason.OVERLOADED, str(error), executed=True)] * len(works)
        except ValueError as error:
            if len(works) == 1:
                return [Refused(Reason.BAD_REQUEST, str(error), executed=True)]
            return [self._attempt([work])[0] for work in works]


class Generation(NamedTuple):
    """The work of a text job."""

    prompt: Sequence[int]
    sampling: Any
    """workers.engines.text.Sampling."""


class _Stepped(NamedTuple):
    """What one step brought back from the accelerator thread."""

    refused: list[tuple[Job, Refused]]
    steps: Sequence[Any]
    taken: Mapping[int, int]
    """By slot, the tokens that went into the step."""
    took: float
    kv_use: float


class Slotted:
    """Jobs that generate token by token, joining and leaving a running batch at any step."""

    def __init__(self, endpoint: Endpoint, engine: Slots, clock: Callable[[], float] = time.thread_time) -> None:
        self.endpoint = endpoint
        self.lane = lane_of(endpoint)
        self.tally = Tally()
        self.clock = clock
        self.pace = endpoint.curve.decode
        """Seconds a step takes now, by moving average: what remaining tokens are multiplied by."""
        self.kv_use = 0.0
        """Share of the key/value cache in use after the last step."""
        curve = endpoint.curve
        self._spent = Learned(Service(curve.decode - curve.decode_batch, curve.decode_batch), endpoint.max_batch)
        """Accelerator seconds of a step by the sequences in it: what the record says."""
        self._engine = engine
        self._active: dict[int, Job] = {}
        self._starting: Sequence[Job] = ()
        """Taken from the queue, their slots not yet known on the loop's side."""
        self._begun: dict[int, Job] = {}
        """Filled on the accelerator thread, read on the loop after the call."""

    @property
    def running(self) -> Collection[Job]:
        return [job for job in (*self._active.values(), *self._starting) if job.state is State.RUNNING]

    @property
    def slots(self) -> int:
        return self._engine.slots

    @property
    def curve(self) -> Curve:
        """The endpoint's, whose decoding is as its own traffic says, once there was some."""
        if not self._spent.sure:
            return self.endpoint.curve
        told, learned = self.endpoint.curve, self._spent.service
        company = learned.each if told.decode_batch else 0.0  # unknown stays unknown
        return msgspec.structs.replace(told, decode=learned.seconds(1), decode_batch=company)

    def plan(self, queue: Queue, now: float) -> Call | None:
        """Free the slots of jobs that ended or were cancelled, fill free slots, and step."""
        stops = [slot for slot, job in self._active.items() if job.state is State.ENDED]
        for slot in stops:
            del self._active[slot]
        starts: list[Job] = []
        while len(self._active) + len(starts) < self.slots and (job := queue.pop(self.lane)) is not None:
            starts.append(job)
        begin(starts, self.tally, now)
        if not (stops or starts or self._active):
            return None
        self._starting, self._begun = starts, {}
        return functools.partial(self._step, stops, starts)

    def settle(self, outcome: _Stepped, accel: float, now: float) -> None:
        """Hand out the tokens, charging each job by the tokens the step took in of it."""
        self._active |= self._begun
        self._begun = {}
        for job, refused in outcome.refused:
            end(job, refused, self.tally, now)
        self._starting = ()  # not before: until here `fail` must find them
        taken = outcome.taken
        for slot, tokens in taken.items():
            self._active[slot].accel += accel * tokens / sum(taken.values())
        if taken and max(taken.values()) == 1:
            self.pace += PACE_WEIGHT * (outcome.took - self.pace)
            self._spent.observe(len(taken), accel)
        self.kv_use = outcome.kv_use
        self.tally.calls += 1
        self.tally.items += len(outcome.steps)
        self.tally.accel += accel
        for step in outcome.steps:
            self._hand_out(step, now)

    def fail(self, now: float) -> None:
        """After an engine fault nobody's cache can be trusted: everyone is refused, every slot freed next turn."""
        lost = [*self._active.values(), *self._starting]
        self._active |= self._begun
        self._begun, self._starting = {}, ()
        for job in lost:
            end(job, FAILED, self.tally, now)

    def _hand_out(self, step: Any, now: float) -> None:
        job = self._active[step.slot]
        if job.state is State.RUNNING:
            job.first = now if job.first is None else job.first
            job.generated += 1
            self.tally.tokens += 1
            token = Token(step.token, step.done)
            if step.done is None:
                job.events.put_nowait(token)
            else:
                end(job, token, self.tally, now)
        if step.done is not None:
            del self._active[step.slot]  # the engine frees the slot of a sequence it ended itself

    def _step(self, stops: Sequence[int], starts: Sequence[Job]) -> _Stepped:
        """On the accelerator thread."""
        begun_at = time.monotonic()
        refused = []
        for slot in stops:
            self._engine.stop(slot)
        for job in starts:
            try:
                self._begun[self._engine.start(job.work.prompt, job.work.sampling)] = job
            except ValueError as error:
                refused.append((job, Refused(Reason.BAD_REQUEST, str(error))))
        steps = self._engine.step()
        return _Stepped(refused, steps, self._engine.taken, time.monotonic() - begun_at, self._engine.kv_use)


def begin(jobs: Sequence[Job], tally: Tally, now: float) -> None:
    for job in jobs:
        job.begin(now)
        tally.started += 1
        tally.queued += now - job.arrived


def end(job: Job, event: Result | Token | Refused, tally: Tally, now: float) -> None:
    """End a job and count it once; a job that was cancelled meanwhile has been counted already."""
    if job.state is not State.ENDED:
        job.end(event, now)
        tally.ended[event.reason.label if isinstance(event, Refused) else "ok"] += 1
