"""The simulator's queueing model in wall time: prefill one by one, then decode in a slot of its own.

The same model as `simulator/queueing.py`, written a second time and on purpose: that the two agree is a test of both.
Every step begins at the instant the one before it was meant to end, not at the one at which a late timer ended it,
so that the lateness of a busy machine does not add up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from policies.records import Timings

if TYPE_CHECKING:
    from loadtests.simulator.world import Profile


class Size(NamedTuple):
    """One request's work."""

    prompt: float
    output: int
    noise: float = 1.0
    """What its times are multiplied with."""


class Job(NamedTuple):
    """A request whose first token is there. Instants on the loop's clock."""

    ends: float
    """When its last token will be."""
    timings: Timings


class Accelerator:
    """One accelerator with a profile."""

    def __init__(self, profile: Profile, mean_output: float, clock: Callable[[], float]) -> None:
        """`mean_output`: tokens it takes an answer to have."""
        self.profile = profile
        self.waiting = 0
        self.running = 0
        self._decoding = 0
        self._mean_output = mean_output
        self._clock = clock
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(profile.slots)
        self._prefilled = 0.0
        """When the last prefill was meant to end."""
        self._freed = 0.0
        """When the last slot was meant to come free."""
        self._queued = 0.0
        """Seconds of prefill that wait."""

    def prefill(self, prompt: float) -> float:
        """Seconds alone."""
        return self.profile.overhead_s + prompt / self.profile.prefill_tokens_per_s

    def backlog(self) -> float:
        """Seconds until a request arriving now would start, as an engine can know that knows no lengths."""
        now, profile = self._clock(), self.profile
        waits = self._queued * self._company() + max(0.0, self._prefilled - now)
        need = self.running + self.waiting + 1 - profile.slots
        if need <= 0:
            return waits
        token = profile.decode_s + profile.decode_batch_s * profile.slots
        return max(waits, need * self._mean_output * token / profile.slots)

    @asynccontextmanager
    async def serve(self, size: Size) -> AsyncIterator[Job]:
        """Wait for a turn and a slot, and prefill; the slot is kept until the context ends."""
        arrived = self._clock()
        await self._wait(size)
        self.running += 1
        freed = None
        try:
            first, seconds, started = await self._prefill(size, arrived)
            token = self.profile.decode_s + self.profile.decode_batch_s * self.running
            decode = (size.output - 1) * token * size.noise
            freed = first + decode
            spent = Timings(
                queue=started - arrived, prefill=seconds, decode=decode, accel=seconds + decode / self.profile.slots
            )
            self._decoding += 1
            try:
                yield Job(freed, spent)
            finally:
                self._decoding -= 1
        finally:
            now = self._clock()
            self.running -= 1
            self._freed = now if freed is None else min(now, freed)
            self._slots.release()

    async def _wait(self, size: Size) -> None:
        """Until it is this request's turn and there is a slot. Who is cancelled leaves no trace."""
        seconds = self.prefill(size.prompt)
        self.waiting += 1
        self._queued += seconds
        try:
            await self._turn.acquire()
            try:
                await self._slots.acquire()
            except BaseException:
                self._turn.release()
                raise
        finally:
            self.waiting -= 1
            self._queued = self._queued - seconds if self.waiting else 0.0  # no rounding survives an idle moment

    async def _prefill(self, size: Size, arrived: float) -> tuple[float, float, float]:
        """When it is meant to be through, after how many seconds, and when it began."""
        try:
            started = max(arrived, self._prefilled, self._freed)
            seconds = self.prefill(size.prompt) * self._company() * size.noise
            self._prefilled = started + seconds
            try:
                await self.until(started + seconds)
            except BaseException:
                self._prefilled = self._clock()
                raise
        finally:
            self._turn.release()
        return started + seconds, seconds, started

    def _company(self) -> float:
        return 1.0 + self.profile.interference * self._decoding / self.profile.slots

    async def until(self, instant: float) -> None:
        """Sleep until then; not at all when it has passed."""
        seconds = instant - self._clock()
        if seconds > 0.0:
            await asyncio.sleep(seconds)
