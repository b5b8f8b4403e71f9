"""The worker's one queue: bounded, earliest deadline first, over all its endpoints.

Pure bookkeeping on the event loop: nothing here waits or computes. A job is in at most one place (this queue, or a
runner); whoever takes it out owns it and must end it with a `Result`, a `Token` with `done`, or a `Refused`.
See batcher.py for who takes, and http.py for who puts.
"""

from __future__ import annotations

import asyncio
import bisect
import enum
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from policies.reason import Reason

PATIENCE = 60.0
"""Seconds after which a job without a nearer deadline is as urgent as one whose deadline is now, so that a flood of
deadlines never starves it; equals the gateways' default patience."""

Line = tuple[str, int]
"""A lane (`model:variant`) and a bucket of it: what may go into one batch."""


class Refused(NamedTuple):
    """Why a request gets no answer; a value, not an exception. http.py turns it into the error body."""

    reason: Reason
    message: str = ""
    """For the client, instead of the reason's fixed text: what was asked and what to change."""
    param: str | None = None
    executed: bool = False
    """Whether accelerator time was spent; only when it was not may the request be safely repeated elsewhere."""


def bad(message: str, field: str) -> Refused:
    """The request is at fault: what has to be changed, and where."""
    return Refused(Reason.BAD_REQUEST, message, field)


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
        "accel", "arrived", "batch", "bucket", "deadline", "entry", "events", "finished", "first", "first_deadline",
        "generated", "items", "lane", "output_tokens", "prompt_tokens", "started", "state", "work",
    )  # fmt: skip

    def __init__(
        self,
        lane: str,
        work: Any,
        *,
        arrived: float,
        deadline: float = math.inf,
        first_deadline: float = math.inf,
        items: int = 1,
        bucket: int = 0,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        self.lane = lane
        self.work = work
        self.arrived = arrived
        self.deadline = deadline
        self.first_deadline = first_deadline
        """Of its first token. It orders the job while it may be met; missing it ends nothing."""
        self.items = items
        self.bucket = bucket
        """Length that its items are padded to, where they are: only jobs of one bucket are a batch."""
        self.batch = 0
        """Items in the engine call that answered it."""
        self.entry: tuple[float, int] = (0.0, 0)
        """Its place in the queue."""
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
        """What the queue orders by: the nearer deadline, or the end of its patience if that is nearer still."""
        return min(self.deadline, self.first_deadline, self.arrived + PATIENCE)

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
    """Jobs that wait, a sorted list per line, one bound over all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lines: dict[Line, list[Job]] = {}
        self._order = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, jobs: Sequence[Job]) -> bool:
        """Take all of them, or none when they don't fit."""
        if self._waiting + len(jobs) > self.limit:
            return False
        for job in jobs:
            self._place(job, next(self._order))
        return True

    def _place(self, job: Job, order: int) -> None:
        job.entry = (job.urgency, order)
        bisect.insort(self._lines.setdefault((job.lane, job.bucket), []), job, key=_entry)
        self._waiting += 1

    def remove(self, job: Job) -> None:
        """Forget a waiting job."""
        assert job.state is State.WAITING
        self.take([job])
        job.state = State.ENDED

    def take(self, jobs: Iterable[Job]) -> None:
        """Take these waiting jobs out: whoever does owns them from now on."""
        for job in jobs:
            line = self._lines[job.lane, job.bucket]
            del line[bisect.bisect_left(line, job.entry, key=_entry)]
            self._waiting -= 1

    def pop(self, lane: str) -> Job | None:
        """Take the most urgent job of a lane."""
        lines = self.by_urgency([lane])
        if not lines:
            return None
        job = self._lines[lines[0]][0]
        self.take([job])
        return job

    def by_urgency(self, lanes: Collection[str]) -> list[Line]:
        """Those lines of these lanes where something waits, the most urgent head first."""
        heads = [(line[0].entry, name) for name, line in self._lines.items() if line and name[0] in lanes]
        return [name for _, name in sorted(heads)]

    def line(self, line: Line) -> Sequence[Job]:
        """Who waits there, the most urgent first. For looking, not for keeping."""
        return self._lines.get(line, ())

    def expire(self, now: float) -> list[Job]:
        """Take out every job whose deadline has passed; one whose first token alone is late waits on by its deadline,
        behind those that have something to lose. Cost: what is overdue, not what waits."""
        passed: list[Job] = []
        for line in self._lines.values():
            passed += line[: bisect.bisect_right(line, (now, math.inf), key=_entry)]
        overdue = [job for job in passed if job.deadline <= now]
        self.take(overdue)
        for job in passed:
            if job.first_deadline <= now < job.deadline:
                self.take([job])
                job.first_deadline = math.inf
                self._place(job, job.entry[1])
        return overdue

    def waiting(self, lane: str) -> Iterator[Job]:
        """The waiting jobs of a lane, in no particular order."""
        return (job for (name, _), line in self._lines.items() if name == lane for job in line)


def _entry(job: Job) -> tuple[float, int]:
    return job.entry
