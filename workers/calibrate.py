"""Fits a manifest's service curves to this machine: a short measured trial per endpoint scales the whole curve.

A manifest was measured elsewhere; what differs here is mostly one factor, the speed of the core. It is measured in the
thread's CPU time, so that a busy start (a fleet coming up on one machine) does not pass for a slow machine; what
contention does to latency, gateways learn from real requests.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import msgspec

from policies.records import Curve

log = logging.getLogger(__name__)

TOTAL_SECONDS = 1.5
"""For all endpoints together: a worker is ready within two seconds of having loaded its models."""
MAX_RUNS = 20
MIN_RUNS = 3
"""A median of three already drops one outlier."""
BOUND = 10.0
"""A factor beyond this says that the trial is not what the manifest measured, not that the machine is."""


def factor(predicted: float, trial: Callable[[], object], budget: float) -> float:
    """How many times longer a trial takes here than its curve predicts, within BOUND. `budget`: CPU seconds."""
    trial()  # the first run pays for allocations and cold caches
    runs: list[float] = []
    while len(runs) < MIN_RUNS or (sum(runs) < budget and len(runs) < MAX_RUNS):
        begun = time.thread_time()
        trial()
        runs.append(time.thread_time() - begun)
        if sum(runs) > budget:
            break
    if predicted <= 0:
        return 1.0
    return min(max(statistics.median(runs) / predicted, 1 / BOUND), BOUND)


def scaled(curve: Curve, by: float) -> Curve:
    fields = msgspec.structs.asdict(curve)
    return Curve(**{name: seconds * by for name, seconds in fields.items()})
