"""An early no: a job that this queue makes too late, sent by a gateway that thought the queue much shorter.

A gateway that promises a deadline says how long it thinks a request will wait here. Where that is far from the truth
and the truth leaves no time, the honest answer is a refusal at once, unexecuted, with a load report: another worker may
still be in time, and the gateway knows better from now on. Best effort is sent without an estimate, and is never
refused so. Next: batcher.py refuses what nobody could take.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import Any

from policies.reason import Reason
from workers.batcher import Batcher
from workers.gauges import backlog
from workers.queue import Job, Queue, Refused
from workers.runners import Batched, Runner, end

FAR_OFF = 2.0
"""Times the estimate: gateways take a wait to be uncertain by a fifth of itself (policies/node.py), so that what is
twice as long is five deviations away, a matter of news that did not arrive, not of chance."""
UNTOLD = 0.05
"""Seconds beyond that: reports and heartbeats follow each other so closely at best, and queues change in between."""


class Ahead(Queue):
    """What of a queue comes before a job, for `gauges.backlog` to look at."""

    def __init__(self, queue: Queue, urgency: float) -> None:
        super().__init__(queue.limit)
        self._queue = queue
        self._last = (urgency, math.inf)

    def waiting(self, lane: str) -> Iterator[Job]:
        for name in self._queue.by_urgency([lane]):
            line = self._queue.line(name)
            yield from line[: bisect.bisect_right(line, self._last, key=_entry)]


def _entry(job: Job) -> tuple[float, float]:
    return job.entry


def early(batcher: Batcher, jobs: Sequence[Job], expected_wait: float | None) -> Refused | None:
    """Refuse the jobs of one request before they are submitted, if they cannot be in time and were thought to be.
    `expected_wait` in seconds; None where nothing was promised."""
    due = min(min(job.deadline, job.first_deadline) for job in jobs)
    if expected_wait is None or due == math.inf:
        return None
    now = batcher.clock()
    wait = backlog(batcher.runners, Ahead(batcher.queue, jobs[0].urgency), now)
    if wait <= FAR_OFF * expected_wait + UNTOLD:
        return None
    if now + wait + sum(_least(batcher.runners[job.lane], job) for job in jobs) <= due:
        return None
    message = (
        f"This worker's queue takes {wait * 1e3:.0f} ms, not {expected_wait * 1e3:.0f}: too long for the deadline."
    )
    refused = Refused(Reason.DEADLINE_EXCEEDED, message)
    for job in jobs:
        end(job, refused, batcher.runners[job.lane].tally, now)
    return refused


async def answers(batcher: Batcher, jobs: Sequence[Job], expected_wait: float | None) -> list[Any] | Refused:
    """Run the batched jobs of one request and wait for them all, unless an early no is the answer."""
    return early(batcher, jobs, expected_wait) or await batcher.results(jobs)


def _least(runner: Runner, job: Job) -> float:
    """Seconds a job takes at least: of a text, until its first token, for nobody knows how soon it stops."""
    if isinstance(runner, Batched):
        return runner.service(job.bucket).seconds(job.items)
    return runner.endpoint.curve.seconds(job.prompt_tokens)
