"""Times and energy of device work: medians by device events, energy by the card's own counter.

Work is asynchronous, so nothing is timed by a host clock without a synchronisation on both sides. Inputs are random:
zeros run faster than data does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from workers.devices import Device

RUNS = 10
"""A median of ten repeats drops the few that a neighbour or a clock change disturbed."""
MEDIAN_SECONDS = 2.0
"""For all repeats of a median."""
WINDOW_SECONDS = 2.0
"""Least window of an energy reading: the counter's period can exceed 100 ms."""
CHUNK_SECONDS = 0.1
"""Work queued ahead between two looks at the clock, so that the window ends near where it should."""


class Sustained(NamedTuple):
    """What a run takes when it is repeated without a pause."""

    seconds: float
    joules: float | None
    """Per run; None where no counter is."""
    watts: float | None


class Meter:
    """Measures runs on one device."""

    def __init__(self, device: torch.device, card: Device | None = None) -> None:
        self.device = device
        self._card = card

    def median(self, run: Callable[[], object], runs: int = RUNS) -> float:
        """Seconds of one run, by device events, after one that does not count. Slow ones are repeated less often."""
        begun = time.monotonic()
        run()
        self.synchronize()
        runs = max(min(runs, int(MEDIAN_SECONDS / max(time.monotonic() - begun, 1e-7))), 1)
        if self.device.type != "cuda":
            return statistics.median(self._clocked(run) for _ in range(runs))
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        for begin, end in marks:
            begin.record()
            run()
            end.record()
        self.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in marks) / 1e3

    def sustained(self, run: Callable[[], object], seconds: float = WINDOW_SECONDS) -> Sustained:
        """Repeat for at least so long; the first tenth only warms the card up."""
        each = max(self.median(run, 3), 1e-7)
        chunk = max(round(CHUNK_SECONDS / each), 1)
        self._repeat(run, round(seconds / 10 / each))
        energy, begun, done = self._joules(), time.monotonic(), 0
        while (took := time.monotonic() - begun) < seconds:
            self._repeat(run, chunk)
            done += chunk
        used = self._joules()
        if energy is None or used is None or used <= energy:
            return Sustained(took / done, None, None)
        return Sustained(took / done, (used - energy) / done, (used - energy) / took)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _repeat(self, run: Callable[[], object], times: int) -> None:
        for _ in range(times):
            run()
        self.synchronize()

    def _clocked(self, run: Callable[[], object]) -> float:
        begun = time.monotonic()
        run()
        return time.monotonic() - begun

    def _joules(self) -> float | None:
        return None if self._card is None else self._card.read().joules
