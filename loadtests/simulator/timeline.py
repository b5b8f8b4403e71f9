"""The only clock of a simulation: a heap of things to do.

Entries are (when, number, act, argument); equal times run in the order they were added, so a run is repeatable.
Nothing is ever taken out again: what was overtaken by events finds out for itself when its time comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Act = Callable[[Any], None]


class Timeline:
    """Virtual seconds since the start of the run."""

    __slots__ = ("_added", "_heap", "_stopped", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Act, Any]] = []
        self._added = 0
        self._stopped = False

    def at(self, when: float, act: Act, argument: Any = None) -> None:
        """Call `act(argument)` at `when`, which must not be past."""
        self._added += 1
        heapq.heappush(self._heap, (when, self._added, act, argument))

    def stop(self) -> None:
        """End `run` after the present event."""
        self._stopped = True

    def run(self, until: float) -> None:
        """Let time pass, up to and with `until`; shorter when somebody stops it or nothing is left to do."""
        heap, pop, ran = self._heap, heapq.heappop, 0
        self._stopped = False
        while heap and not self._stopped and heap[0][0] <= until:
            self.now, _, act, argument = pop(heap)
            act(argument)
            ran += 1
        self.events += ran
        if not self._stopped:
            self.now = max(self.now, until)
