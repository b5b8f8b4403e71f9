"""Whose turn it is at an engine: so many at once, of those that wait the earliest deadline first.

A request whose deadline passes while it waits never reaches the engine. See proxy.py for who takes turns.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
import math
from collections.abc import Callable


class Turn(enum.Enum):
    """How waiting ended."""

    TAKEN = "taken"
    EXPIRED = "expired"
    FULL = "full"


class Turns:
    """Slots of an engine, and the line before them. Deadlines are instants of `clock`."""

    def __init__(self, slots: int, limit: int, clock: Callable[[], float]) -> None:
        self.running = 0
        self._slots = slots
        self._limit = limit
        self._clock = clock
        self._order = itertools.count()
        self._line: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def take(self, deadline: float = math.inf) -> Turn:
        """Wait for a slot. Whoever gets TAKEN must `leave`; a cancelled wait holds nothing."""
        left = deadline - self._clock()
        if left <= 0:
            return Turn.EXPIRED
        if self.running < self._slots:
            self.running += 1
            return Turn.TAKEN
        if len(self._line) >= self._limit:
            return Turn.FULL
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (deadline, next(self._order), called)
        heapq.heappush(self._line, place)
        try:
            async with asyncio.timeout(None if left == math.inf else left):
                await called
        except TimeoutError:
            self._withdraw(place)
            return Turn.EXPIRED
        except asyncio.CancelledError:
            self._withdraw(place)
            raise
        return Turn.TAKEN

    def leave(self) -> None:
        """Give a slot back: to the most urgent of those that wait."""
        while self._line:
            _, _, called = heapq.heappop(self._line)
            if not called.done():
                called.set_result(None)
                return
        self.running -= 1

    def _withdraw(self, place: tuple[float, int, asyncio.Future[None]]) -> None:
        if place[2].done() and not place[2].cancelled():
            self.leave()  # called in the same moment
            return
        place[2].cancel()
        if place in self._line:
            self._line.remove(place)
            heapq.heapify(self._line)
