"""What every model build measures, in one way: latency, service curve, confidence, host, and the file's digest.

Times are CPU seconds of the calling thread: engines run on that one thread, and other work on the machine then only
disturbs through caches and clock speed. Each build passes the figures on to `workers/manifest.py`.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from policies.records import Curve
from workers.manifest import File, Host, Latency, Variant, digest

BATCHES = (1, 8, 32)
Z95 = 1.959964


def host() -> Host:
    return Host(
        cpu=_cpu(),
        threads=1,
        load=round(os.getloadavg()[0], 2),
        clock="cpu",
        onnxruntime=ort.__version__,
        measured=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def timed(run: Callable[[], object], seconds: float, fewest: int = 30) -> list[float]:
    """CPU seconds of one call each, repeated for about `seconds`; the first calls warm up and are left out."""
    for _ in range(3):
        run()
    took: list[float] = []
    until = time.thread_time() + seconds
    while len(took) < fewest or time.thread_time() < until:
        began = time.thread_time()
        run()
        took.append(time.thread_time() - began)
    return took


def least_disturbed(rounds: Sequence[list[float]]) -> list[float]:
    """The round with the lowest median: what shares the core's caches and clock only ever makes a round slower."""
    return min(rounds, key=lambda took: float(np.median(took)))


def latency(took: Sequence[float]) -> Latency:
    p50, p90, p99 = (round(float(p) * 1e3, 4) for p in np.percentile(took, (50, 90, 99)))
    return Latency(p50, p90, p99)


def tensor_curve(latencies: dict[str, Latency]) -> Curve:
    """One item alone, and what each further one adds, from the medians at the smallest and the largest batch."""
    small, large = BATCHES[0], BATCHES[-1]
    base, full = latencies[str(small)].p50 / 1e3, latencies[str(large)].p50 / 1e3
    return Curve(base=round(base, 8), item=round(max(full - base, 0) / (large - small), 8))


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927: it holds near 1, where the usual normal interval does not)."""
    share = right / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return round(middle - half, 5), round(middle + half, 5)


def described(path: Path) -> File:
    return File(path.name, digest(path), path.stat().st_size)


def variant(
    path: Path,
    name: str,
    engine: str,
    *,
    right: int,
    reference_right: int,
    asked: int,
    agreement: float,
    latency_ms: dict[str, Latency],
    curve: Curve,
    max_batch: int,
    fidelity: Mapping[str, float] = MappingProxyType({}),
    tokens_per_second: Mapping[str, float] = MappingProxyType({}),
) -> Variant:
    """One variant as the manifest records it, from how many of the questions `asked` it and the reference got right."""
    file = described(path)
    return Variant(
        variant=name,
        engine=engine,
        file=file.file,
        sha256=file.sha256,
        bytes=file.bytes,
        score=round(right / asked, 5),
        ci95=wilson(right, asked),
        quality=round(right / reference_right, 5),
        agreement=round(agreement, 5),
        fidelity={measure: round(likeness, 5) for measure, likeness in fidelity.items()},
        latency_ms=latency_ms,
        tokens_per_second=dict(tokens_per_second),
        curve=curve,
        max_batch=max_batch,
    )
