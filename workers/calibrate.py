"""Fits a manifest's service curves to this machine, in seconds, before it takes traffic.

A manifest was measured elsewhere. A trial alone scales the whole curve by one factor, mostly the speed of the core; a
second one in company says what a further item costs here, which caches and vector units decide. Both in the thread's
CPU time, so that a busy start (a fleet coming up on one machine) does not pass for a slow machine; what contention
does to latency, gateways learn from real requests. From then on traffic itself tells (learning.py).
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
MOVED = 0.2
"""Share by which a curve must have moved for gateways to be told: they correct smaller errors by what they see, and a
record is signed, read and checked by all of them."""


def factor(
    predicted: float, trial: Callable[[], object], budget: float, clock: Callable[[], float] = time.thread_time
) -> float:
    """How many times longer a trial takes here than its curve predicts, within BOUND. `budget`: seconds by `clock`."""
    trial()  # the first run pays for allocations and cold caches
    runs: list[float] = []
    while len(runs) < MIN_RUNS or (sum(runs) < budget and len(runs) < MAX_RUNS):
        begun = clock()
        trial()
        runs.append(clock() - begun)
        if sum(runs) > budget:
            break
    if predicted <= 0:
        return 1.0
    return min(max(statistics.median(runs) / predicted, 1 / BOUND), BOUND)


def scaled(curve: Curve, by: float) -> Curve:
    fields = msgspec.structs.asdict(curve)
    return Curve(**{name: seconds * by for name, seconds in fields.items()})


def company(curve: Curve, most: int, budget: float) -> int:
    """Items of the trial in company: a full batch, or what a budget of seconds allows to repeat."""
    affordable = int((budget / (MIN_RUNS + 1) - curve.base) / max(curve.item, 1e-9)) + 1
    return min(max(affordable, 2), most)


def bent(curve: Curve, items: int, by: float) -> Curve:
    """The curve of which so many items together take `by` times what they did, and one alone what it did."""
    each = (by * curve.seconds(items=items) - curve.base) / (items - 1)
    return msgspec.structs.replace(curve, item=max(each, 0.0))


def moved(told: Curve, found: Curve, most: int) -> bool:
    """Whether one item, a full batch or an output token takes so much more or less than gateways were told."""
    pairs = (
        (told.base, found.base),
        (told.seconds(items=most), found.seconds(items=most)),
        (told.decode, found.decode),
        (told.decode_batch, found.decode_batch),
    )
    return any(abs(now - before) > MOVED * before for before, now in pairs)
