"""Whose turn it is on the accelerator: one thread, all lanes, earliest deadline first.

A turn is one batch for the most urgent line of the batched lanes and one step for every text lane with something in
it. forming.py says who is in the batch, and when it pays to wait for more of them; nothing waits while another line
has work. What expired in the queue is refused before the turn, unexecuted. Next: runners.py, queue.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from policies.reason import Reason
from workers.queue import Job, Queue, Refused, Result, State
from workers.runners import Batched, Call, Runner, Slotted, Wait, end

log = logging.getLogger(__name__)

FAULT_PAUSE = 0.1
"""Seconds before the next turn after a fault of our own, so that a lasting one does not spin."""


class Batcher:
    """Takes jobs in, runs them on its thread, and lets callers cancel them at any point."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        queue: Queue,
        clock: Callable[[], float] = time.monotonic,
        guard: Callable[[], Refused | None] = lambda: None,
    ) -> None:
        """`guard` says why nothing can be taken for the moment, if so: of the accelerator, beyond this queue."""
        self.runners = runners
        self.queue = queue
        self.clock = clock
        self._guard = guard
        self.draining = False
        self.accepted = 0
        """Requests queued since boot, however many jobs each was."""
        self.changed = asyncio.Event()
        """Set whenever waiting or running changed; the lease clears it."""
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="accelerator")
        self._batched = {lane: runner for lane, runner in runners.items() if isinstance(runner, Batched)}
        self._slotted = [runner for runner in runners.values() if isinstance(runner, Slotted)]
        self._free_since = clock()
        """When the accelerator last ended something."""
        self._until = math.inf
        """When to look again though nothing changed: a batch that waits for company waits no longer."""

    def submit(self, jobs: Sequence[Job]) -> Refused | None:
        """Queue all of these, or say why not; nothing has been executed then."""
        refused = self._refusal(jobs)
        if refused is None:
            self.accepted += 1
            for job in jobs:
                if job.lane in self._batched:
                    self._batched[job.lane].arrived(job, self.clock())
            self._touch()
        else:
            for job in jobs:
                end(job, refused, self.runners[job.lane].tally, self.clock())
        return refused

    def _refusal(self, jobs: Sequence[Job]) -> Refused | None:
        if self.draining:
            return Refused(Reason.DRAINING, "This worker is shutting down.")
        if any(job.deadline <= self.clock() for job in jobs):
            return Refused(Reason.DEADLINE_EXCEEDED, "The deadline had passed on arrival.")
        if (refused := self._guard()) is not None:
            return refused
        if not self.queue.push(jobs):
            return Refused(Reason.OVERLOADED, "This worker's queue is full.")
        return None

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Forget what has not ended: queued jobs at once, running text before its next step, a running batch when
        nobody waits for any of it and its engine can be stopped."""
        for job in jobs:
            if job.state is State.ENDED:
                continue
            if job.state is State.WAITING:
                self.queue.remove(job)
            self._retire(job, "cancelled")
            if job.lane in self._batched:
                self._batched[job.lane].abandon()

    def finish(self, job: Job) -> None:
        """A text answer is complete before its engine knew (a stop text): free the slot before the next step."""
        if job.state is State.RUNNING:
            self._retire(job, "ok")

    def _retire(self, job: Job, outcome: str) -> None:
        job.state = State.ENDED
        job.finished = self.clock()
        self.runners[job.lane].tally.ended[outcome] += 1
        self._touch()

    async def results(self, jobs: Sequence[Job]) -> list[Any] | Refused:
        """Run batched jobs and wait for all their answers. Cancelling the caller cancels the jobs."""
        refused = self.submit(jobs)
        if refused is not None:
            return refused
        values = []
        try:
            for job in jobs:
                event = await job.events.get()
                if not isinstance(event, Result):
                    assert isinstance(event, Refused)
                    return event._replace(executed=any(each.started is not None for each in jobs))
                # One of several may have been done long before its turn came here.
                self._batched[job.lane].answered(job, self.clock() if len(jobs) == 1 else job.finished)
                values.append(event.value)
        finally:
            self.cancel(jobs)
        return values

    async def run(self) -> None:
        """Take turns until cancelled. Never ends by itself."""
        while True:
            await self._called()
            try:
                while await self.turn():
                    pass
            except Exception:
                log.exception("a turn failed")
                await asyncio.sleep(FAULT_PAUSE)
                self._wake.set()

    async def _called(self) -> None:
        """Sleep until something changed, or a batch has waited long enough."""
        left = self._until - self.clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left if left < math.inf else None):
                await self._wake.wait()
        self._wake.clear()

    async def turn(self) -> bool:
        """One turn of the accelerator; False when there was nothing to do."""
        now = self.clock()
        for job in self.queue.expire(now):
            late = Refused(Reason.DEADLINE_EXCEEDED, "The deadline passed in this worker's queue.")
            end(job, late, self.runners[job.lane].tally, now)
        self._until = math.inf
        busy = await self._batch()
        for runner in self._slotted:
            call = runner.plan(self.queue, self.clock())
            if call is not None:
                busy = True
                await self._execute(runner, call)
        return busy

    async def _batch(self) -> bool:
        """Execute the next batch, if it is time."""
        lines = self.queue.by_urgency(self._batched)
        if not lines:
            return False
        runner, now = self._batched[lines[0][0]], self.clock()
        plan = runner.plan(self.queue, lines[0], now, self._free_since, alone=len(lines) == 1)
        if isinstance(plan, Wait):
            self._until = plan.until
            return plan.until <= now  # only the hopeless waited there
        await self._execute(runner, plan)
        return True

    async def _execute(self, runner: Runner, call: Call) -> None:
        """Run one call on the accelerator thread and book it."""
        loop = asyncio.get_running_loop()
        try:
            outcome, accel = await loop.run_in_executor(self._thread, timed, call, runner.clock)
            runner.settle(outcome, accel, self.clock())
        except Exception:
            log.exception("engine of %s failed", runner.lane)
            runner.fail(self.clock())  # whatever broke, the engine or our booking: nobody waits for ever
        self._free_since = self.clock()
        self.changed.set()

    def _touch(self) -> None:
        self._wake.set()
        self.changed.set()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def timed(call: Call, clock: Callable[[], float] = time.thread_time) -> tuple[Any, float]:
    """Run on the accelerator thread: the value, and the accelerator seconds it cost.

    An engine that computes in the calling thread (one intra-op thread) is charged by its CPU time, without what other
    processes took from this core meanwhile.
    """
    begun = clock()
    value = call()
    return value, clock() - begun
