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

from policies.reason import Reason
from policies.records import Endpoint
from workers.queue import Job, Queue, Refused, Result, State, Token

log = logging.getLogger(__name__)

PACE_WEIGHT = 0.1
"""Weight of the newest step in the moving average of step times: about the last ten steps."""

FAILED = Refused(Reason.INTERNAL, "The engine failed.", executed=True)

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


class Runner(Protocol):
    """One lane's way to use the accelerator."""

    lane: str
    endpoint: Endpoint
    tally: Tally

    @property
    def running(self) -> Collection[Job]: ...
    def plan(self, queue: Queue, now: float) -> Call | None: ...
    def settle(self, outcome: Any, accel: float, now: float) -> None: ...
    def fail(self, now: float) -> None: ...


def lane_of(endpoint: Endpoint) -> str:
    return f"{endpoint.model}:{endpoint.variant}"


class Batched:
    """Jobs that are answered by one engine call each, taken together up to `max_batch` items."""

    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        self.endpoint = endpoint
        self.lane = lane_of(endpoint)
        self.tally = Tally()
        self.running: Sequence[Job] = ()
        self._run = run

    def plan(self, queue: Queue, now: float) -> Call | None:
        """Take what waits, most urgent first, as long as the growing batch makes nobody in it late."""
        job = queue.pop(self.lane)
        if job is None:
            return None
        batch, items, tightest = [job], job.items, job.deadline
        while (following := queue.head(self.lane)) is not None:
            grown = items + following.items
            if grown > self.endpoint.max_batch or now + self._takes(items) <= tightest < now + self._takes(grown):
                break
            batch.append(following)
            queue.pop(self.lane)
            items, tightest = grown, min(tightest, following.deadline)
        begin(batch, self.tally, now)
        self.running = batch
        return functools.partial(self._attempt, [job.work for job in batch])

    def settle(self, outcome: Sequence[Result | Refused], accel: float, now: float) -> None:
        """Answer every job, charging each by its share of the items."""
        items = sum(job.items for job in self.running)
        self.tally.calls += 1
        self.tally.items += items
        self.tally.accel += accel
        for job, event in zip(self.running, outcome, strict=True):
            job.accel = accel * job.items / items
            end(job, event, self.tally, now)
        self.running = ()

    def fail(self, now: float) -> None:
        for job in self.running:
            end(job, FAILED, self.tally, now)
        self.running = ()

    def _takes(self, items: int) -> float:
        return self.endpoint.curve.seconds(items=items)

    def _attempt(self, works: Sequence[Any]) -> list[Result | Refused]:
        """On the accelerator thread: one call for all; if that is refused, each alone, so that one bad input costs
        only itself."""
        try:
            return [Result(value) for value in self._run(works)]
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

    def __init__(self, endpoint: Endpoint, engine: Slots) -> None:
        self.endpoint = endpoint
        self.lane = lane_of(endpoint)
        self.tally = Tally()
        self.pace = endpoint.curve.decode
        """Seconds a step takes now, by moving average: what remaining tokens are multiplied by."""
        self.kv_use = 0.0
        """Share of the key/value cache in use after the last step."""
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
