"""The worker's one queue: bounded, earliest deadline first, over all its endpoints.

Pure bookkeeping on the event loop: nothing here waits or computes. A job is in at most one place (this queue, or a
runner); whoever takes it out owns it and must end it with a `Result`, a `Token` with `done`, or a `Refused`.
See batcher.py for who takes, and http.py for who puts.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from policies.reason import Reason

PATIENCE = 60.0
"""Seconds after which a job without a nearer deadline is as urgent as one whose deadline is now, so that a flood of
deadlines never starves it; equals the gateways' default patience."""
COMPACT_ABOVE = 64
"""Removed jobs left inside a heap before it is rebuilt: rare enough to be cheap, small enough not to hold bodies."""


class Refused(NamedTuple):
    """Why a request gets no answer; a value, not an exception. http.py turns it into the error body."""

    reason: Reason
    message: str = ""
    """For the client, instead of the reason's fixed text: what was asked and what to change."""
    param: str | None = None
    executed: bool = False
    """Whether accelerator time was spent; only when it was not may the request be safely repeated elsewhere."""


class Result(NamedTuple):
    """The whole answer of a batched job."""

    value: Any


class Token(NamedTuple):
    """One generated token; `done` says why it is the last (`stop` or `length`)."""

    id: int
    done: str | None = None


class State(enum.Enum):
    """Where a job is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Job:
    """One piece of work for one endpoint, with what it cost so far. Times are the worker's monotonic seconds."""

    __slots__ = (
        "accel", "arrived", "deadline", "events", "finished", "first", "generated", "items", "lane", "output_tokens",
        "prompt_tokens", "started", "state", "work",
    )  # fmt: skip

    def __init__(
        self,
        lane: str,
        work: Any,
        *,
        arrived: float,
        deadline: float = math.inf,
        items: int = 1,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        self.lane = lane
        self.work = work
        self.arrived = arrived
        self.deadline = deadline
        self.items = items
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.state = State.WAITING
        self.started: float | None = None
        self.first: float | None = None
        self.finished: float | None = None
        self.generated = 0
        self.accel = 0.0
        self.events: asyncio.Queue[Result | Token | Refused] = asyncio.Queue()

    @property
    def urgency(self) -> float:
        """What the queue orders by: the deadline, or the end of its patience if that is nearer."""
        return min(self.deadline, self.arrived + PATIENCE)

    def begin(self, now: float) -> None:
        self.state = State.RUNNING
        self.started = now

    def end(self, event: Result | Token | Refused, now: float) -> None:
        """Hand over the last event; what comes after a client left has nobody to go to and is dropped."""
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self.finished = now
            self.events.put_nowait(event)

    def __repr__(self) -> str:
        return f"<Job {self.lane} {self.state.value} items={self.items} deadline={self.deadline:.3f}>"


class Queue:
    """Jobs that wait, one heap per lane (`model:variant`), one bound over all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._heaps: dict[str, list[tuple[float, int, Job]]] = {}
        self._dead: dict[str, int] = {}
        self._order = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, jobs: Sequence[Job]) -> bool:
        """Take all of them, or none when they don't fit."""
        if self._waiting + len(jobs) > self.limit:
            return False
        for job in jobs:
            heapq.heappush(self._heaps.setdefault(job.lane, []), (job.urgency, next(self._order), job))
        self._waiting += len(jobs)
        return True

    def remove(self, job: Job) -> None:
        """Forget a waiting job; its entry goes when it surfaces or at the next compaction."""
        assert job.state is State.WAITING
        job.state = State.ENDED
        self._waiting -= 1
        self._dead[job.lane] = dead = self._dead.get(job.lane, 0) + 1
        heap = self._heaps[job.lane]
        if dead > COMPACT_ABOVE and dead * 2 > len(heap):
            heap[:] = [entry for entry in heap if entry[2].state is State.WAITING]
            heapq.heapify(heap)
            self._dead[job.lane] = 0

    def head(self, lane: str) -> Job | None:
        """The most urgent job of a lane, left in place."""
        heap = self._heaps.get(lane, [])
        while heap and heap[0][2].state is not State.WAITING:
            heapq.heappop(heap)
            self._dead[lane] -= 1
        return heap[0][2] if heap else None

    def pop(self, lane: str) -> Job | None:
        """Take the most urgent job of a lane."""
        job = self.head(lane)
        if job is not None:
            heapq.heappop(self._heaps[lane])
            self._waiting -= 1
        return job

    def by_urgency(self, lanes: Iterable[str]) -> list[str]:
        """Those of these lanes where something waits, the most urgent head first."""
        heads = [(job.urgency, lane) for lane in lanes if (job := self.head(lane)) is not None]
        return [lane for _, lane in sorted(heads)]

    def expire(self, now: float) -> list[Job]:
        """Take out every job whose deadline has passed. Cost: what is overdue, not what waits."""
        expired = []
        for lane, heap in self._heaps.items():
            patient = []
            while (job := self.head(lane)) is not None and job.urgency <= now:
                entry = heapq.heappop(heap)
                if job.deadline <= now:
                    expired.append(job)
                else:
                    patient.append(entry)
            for entry in patient:
                heapq.heappush(heap, entry)
        self._waiting -= len(expired)
        return expired

    def waiting(self, lane: str) -> Iterator[Job]:
        """The waiting jobs of a lane, in no particular order."""
        return (job for _, _, job in self._heaps.get(lane, ()) if job.state is State.WAITING)
