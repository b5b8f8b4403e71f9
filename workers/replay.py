"""Requests played through the worker's own queue and batching in virtual time: what would have been in time?

The queue, the forming rule and what it learns are those that serve; only the engine is a curve with noise, and the
clock is ours. So a batching rule can be judged by hours of traffic in seconds, on a machine that is busy with something
else. `python -m workers.replay` reads `Play`s as JSON and writes as many `Played`: `make bench-batch` asks it so, load
tests import no workers.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec

from policies.records import Curve, Endpoint
from workers.forming import Batching, Service, Slack
from workers.queue import Job, Queue, Result, State
from workers.runners import Batched, Wait

QUEUE_LIMIT = 100_000
"""Jobs that may wait: the rules are compared by what they choose, not by what a bound keeps from them."""


class Play(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be played. Seconds."""

    arrivals: list[tuple[float, float | None]]
    """When each request arrives, in order, and how long after that its answer is due."""
    fixed: float
    each: float
    """What a batch really takes: `fixed + each * items`."""
    noise: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Standard deviation of the logarithm of a batch's time."""
    max_batch: Annotated[int, msgspec.Meta(ge=1)] = 32
    batching: Batching = Slack()
    seed: int = 0


class Played(msgspec.Struct, frozen=True):
    """What came of it."""

    finished: list[float | None]
    """When each answer was there; None for those refused."""
    calls: int
    """Batches executed."""
    busy: float
    """Seconds of the accelerator."""


def play(told: Play) -> Played:
    """Play it to the end."""
    truth, rng = Service(told.fixed, told.each), random.Random(told.seed)  # noqa: S311 - noise
    curve = Curve(base=truth.seconds(1), item=truth.each)
    endpoint = Endpoint(model="m", variant="v", quality=1.0, curve=curve, max_batch=told.max_batch)
    runner, queue = Batched(endpoint, list, told.batching), Queue(QUEUE_LIMIT)
    jobs = [
        Job(runner.lane, None, arrived=at, deadline=math.inf if budget is None else at + budget)
        for at, budget in told.arrivals
    ]
    now, free_since, busy, coming = 0.0, 0.0, 0.0, 0
    while coming < len(jobs) or len(queue):
        if not len(queue):
            now = max(now, jobs[coming].arrived)
        while coming < len(jobs) and jobs[coming].arrived <= now:
            queue.push([jobs[coming]])
            runner.arrived(jobs[coming], jobs[coming].arrived)
            coming += 1
        for job in queue.expire(now):
            job.state = State.ENDED
        lines = queue.by_urgency([runner.lane])
        if not lines:
            continue
        plan = runner.plan(queue, lines[0], now, free_since, alone=True)
        if isinstance(plan, Wait):
            now = _next(now, plan.until, jobs, coming)
            continue
        took = truth.seconds(len(runner.running)) * rng.lognormvariate(0.0, told.noise)
        now = free_since = now + took
        busy += took
        batch = runner.running
        runner.settle([Result(None)] * len(batch), took, now)
        runner.answered(batch[-1], now)
    return Played([_answered(job) for job in jobs], runner.tally.calls, busy)


def _next(now: float, until: float, jobs: Sequence[Job], coming: int) -> float:
    """When the worker looks again: at the next arrival, or when the wait is over."""
    arrival = jobs[coming].arrived if coming < len(jobs) else math.inf
    return max(now, min(until, arrival))


def _answered(job: Job) -> float | None:
    return job.finished if isinstance(job.events.get_nowait() if not job.events.empty() else None, Result) else None


def main() -> int:
    try:
        told = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Play])
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"stdin holds no plays: {error}\n")
        return 2
    sys.stdout.buffer.write(msgspec.json.encode([play(each) for each in told]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
