"""What is measured of every variant, in one way: latency by batch size, service curve, memory, host, the file's digest.

On a CPU, times are CPU seconds of the calling thread: engines run on that one thread, and other work on the machine
then only disturbs through caches and clock speed. On an accelerator they are the wall's.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from policies.records import Curve
from workers.accelerate import machine
from workers.accelerate.evaluate import Quality
from workers.accelerate.verdict import MARGIN
from workers.manifest import Effort, File, Host, Latency, Variant, digest

GROWTH = 0.05
"""A larger batch must bring this much more throughput."""
PATIENCE = 2
"""Doublings in a row that bring less, after which larger ones are not tried: one may be a neighbour's doing, or that of
a kernel which suits some sizes."""
ROUNDS = 3
"""Per batch size, of which the least disturbed counts."""

Clock = Callable[[], float]


class Timing(NamedTuple):
    """Latency by batch size, and the batch of the highest throughput."""

    latency_ms: dict[str, Latency]
    best: int

    @property
    def largest(self) -> int:
        return int(list(self.latency_ms)[-1])

    @property
    def throughput(self) -> float:
        """Items per second at the median time of the best batch."""
        return self.best / (self.latency_ms[str(self.best)].p50 / 1e3)

    @property
    def curve(self) -> Curve:
        """One item alone, and what each further one adds, from the medians at the smallest and the largest batch."""
        alone, full = self.latency_ms["1"].p50 / 1e3, self.latency_ms[str(self.largest)].p50 / 1e3
        further = max(full - alone, 0) / (self.largest - 1) if self.largest > 1 else alone
        return Curve(base=round(alone, 8), item=round(further, 8))

    @property
    def figures(self) -> dict[str, Any]:
        """Its fields of a variant."""
        return {"latency_ms": self.latency_ms, "curve": self.curve, "throughput": round(self.throughput, 1)}


def host(clock: str = "cpu", accelerator: str = "", driver: str = "") -> Host:
    software = machine.software() | ({"driver": driver} if driver else {})
    return Host(
        cpu=machine.cpu(),
        threads=1,
        load=load(),
        clock=clock,
        onnxruntime=ort.__version__,
        measured=datetime.datetime.now(datetime.UTC).date().isoformat(),
        cores=os.cpu_count(),
        memory_bytes=machine.memory_bytes(),
        accelerator=accelerator,
        software=software,
    )


def load() -> float:
    """Average of the last minute."""
    return round(os.getloadavg()[0], 2)


def by_batch(
    prepared: Callable[[int], Callable[[], object]], most: int, seconds: float, clock: Clock = time.thread_time
) -> Timing:
    """Double the batch until throughput stops growing. `prepared` makes a run of so many items; `seconds` for each."""
    found: dict[str, Latency] = {}
    best, rate, size, flat = 1, 0.0, 1, 0
    while size <= most and flat < PATIENCE:
        run = prepared(size)
        rounds = [timed(run, seconds / ROUNDS, fewest=5, clock=clock) for _ in range(ROUNDS)]
        found[str(size)] = latency(least_disturbed(rounds))
        reached = size / found[str(size)].p50
        flat = 0 if reached > rate * (1 + GROWTH) else flat + 1
        if reached > rate:
            best, rate = size, reached
        size *= 2
    return Timing(found, best)


def timed(run: Callable[[], object], seconds: float, fewest: int = 30, clock: Clock = time.thread_time) -> list[float]:
    """Seconds of one call each, repeated for about `seconds`; the first calls warm up and are left out."""
    for _ in range(3):
        run()
    took: list[float] = []
    until = clock() + seconds
    while len(took) < fewest or clock() < until:
        began = clock()
        run()
        took.append(clock() - began)
    return took


def least_disturbed(rounds: Sequence[list[float]]) -> list[float]:
    """The round with the lowest median: what shares the core's caches and clock only ever makes a round slower."""
    return min(rounds, key=lambda took: float(np.median(took)))


def latency(took: Sequence[float]) -> Latency:
    p50, p90, p99 = (round(float(p) * 1e3, 4) for p in np.percentile(took, (50, 90, 99)))
    return Latency(p50, p90, p99)


def described(path: Path) -> File:
    return File(path.name, digest(path), path.stat().st_size)


def variant(
    path: Path,
    name: str,
    engine: str,
    *,
    quality: Quality,
    latency_ms: Mapping[str, Latency],
    curve: Curve,
    max_batch: int,
    tokens_per_second: Mapping[str, float] = MappingProxyType({}),
    **figures: Any,
) -> Variant:
    """One variant as the manifest records it; `figures` are those of its optional fields that were measured."""
    file = described(path)
    return Variant(
        variant=name,
        engine=engine,
        file=file.file,
        sha256=file.sha256,
        bytes=file.bytes,
        **quality._asdict(),
        latency_ms=dict(latency_ms),
        tokens_per_second=dict(tokens_per_second),
        curve=curve,
        max_batch=max_batch,
        load=load(),
        **figures,
    )


def usd_per_1k(throughput: float, price_per_hour: float) -> float:
    return float(f"{price_per_hour / 3600 / throughput * 1000:.4g}")


def effort(seconds: float, price_per_hour: float | None, throughput: float, reference: float | None) -> Effort:
    """What making a variant took, and after how many items its throughput has paid for that against the reference's;
    never, where what it saves is within the noise."""
    gained = reference is not None and throughput > reference * (1 + MARGIN)
    saved = 1 / reference - 1 / throughput if reference is not None and gained else 0.0
    return Effort(
        seconds=round(seconds, 3),
        usd=None if price_per_hour is None else float(f"{price_per_hour / 3600 * seconds:.4g}"),
        pays_after=-int(-seconds // saved) if saved > 0 else None,
    )
