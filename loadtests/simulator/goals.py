"""What the headline was meant to reach, and whether it did.

The numbers are those of the prototype that the routing algorithm came from, and the promise that every accepted request
carries. A goal that was missed stays in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from loadtests.simulator.charts import real
from loadtests.simulator.result import Interval
from loadtests.simulator.statistics import OURS, Comparison, percent, plus_minus, signed

LOAD, HEARTBEAT, QUEUE, LENGTH = "load", "control.heartbeat_s", "serving.queue", "seconds"
CENTRE: Final = {LOAD: 0.7, HEARTBEAT: 1.0, QUEUE: "fifo"}
"""What the headline speaks of."""
PROMISED: Final = 0.05
"""Of the requests accepted as feasible may miss: routes ask for 95 %."""
ROUNDING: Final = 1e-9


class Goal(NamedTuple):
    what: str
    wanted: str
    got: str
    met: bool


def at(comparisons: Sequence[Comparison], **changed: object) -> Comparison | None:
    """The case at the centre but for `load`, `heartbeat` or `queue`; of several the one with the longest runs."""
    names = {"load": LOAD, "heartbeat": HEARTBEAT, "queue": QUEUE}
    label = {**CENTRE, **{names[name]: value for name, value in changed.items()}}
    found = [one for one in comparisons if all(one.label.get(key) == value for key, value in label.items())]
    return max(found, key=lambda one: float(one.label.get(LENGTH, 0.0)), default=None)


def goals(comparisons: Sequence[Comparison]) -> list[Goal]:
    """All that the cases at hand can answer."""
    found = []
    for check in CHECKS:
        goal = check(comparisons)
        if goal is not None:
            found.append(goal)
    return found


def _points(one: Interval) -> str:
    return f"{signed(one, 1, 100)} points"


def _lead_over_prequal(comparisons: Sequence[Comparison]) -> Goal | None:
    case = at(comparisons)
    if case is None or not {OURS, "prequal"} <= case.runs.keys():
        return None
    lead = case.difference(OURS, "attainment", "prequal")
    return Goal("Attainment over Prequal, FIFO, load 0.7", "at least +8 points", _points(lead), lead.mean >= 0.08)


def _behind_clairvoyant(queue: str, points: float) -> Callable[[Sequence[Comparison]], Goal | None]:
    def check(comparisons: Sequence[Comparison]) -> Goal | None:
        case = at(comparisons, queue=queue)
        if case is None or not {OURS, "clairvoyant"} <= case.runs.keys():
            return None
        gap = case.difference(OURS, "attainment", "clairvoyant")
        what = f"Attainment against the clairvoyant, {queue.upper()}, load 0.7"
        return Goal(what, f"at most {points * 100:g} points below", _points(gap), gap.mean >= -points)

    return check


def _cost_against(other: str, factor: float) -> Callable[[Sequence[Comparison]], Goal | None]:
    def check(comparisons: Sequence[Comparison]) -> Goal | None:
        case = at(comparisons)
        if case is None or not {OURS, other} <= case.runs.keys():
            return None
        ratio = case.mean(OURS, "cost_per_1k") / (case.mean(other, "cost_per_1k") or math.nan)
        what = f"Cost per request in deadline over {other}'s, FIFO, load 0.7"
        return Goal(what, f"at most {factor:g}", f"{ratio:.2f}", ratio <= factor)

    return check


def _staleness(comparisons: Sequence[Comparison]) -> Goal | None:
    fresh, stale = at(comparisons, heartbeat=0.1), at(comparisons, heartbeat=5.0)
    if fresh is None or stale is None or OURS not in fresh.runs or OURS not in stale.runs:
        return None
    lost = fresh.mean(OURS, "attainment") - stale.mean(OURS, "attainment")
    what = "Attainment lost from heartbeats of 0.1 s to 5 s, FIFO, load 0.7"
    return Goal(what, "less than 1 point", f"{lost * 100:.1f} points", lost < 0.01)


def _overload(comparisons: Sequence[Comparison]) -> Goal | None:
    case = at(comparisons, load=1.1)
    if case is None or OURS not in case.runs:
        return None
    met = case.interval(OURS, "attainment")
    return Goal(
        "Attainment in overload, FIFO, load 1.1", "at least 80 %", f"{plus_minus(met, 1, 100)} %", met.mean >= 0.8
    )


def _promises(comparisons: Sequence[Comparison]) -> Goal | None:
    cases = [case for case in comparisons if OURS in case.runs]
    if not cases:
        return None
    worst = max(cases, key=lambda case: case.mean(OURS, "miss_rate_accepted"))
    missed = worst.mean(OURS, "miss_rate_accepted")
    what = "Promises broken (accepted as feasible, but late), worst case"
    return Goal(what, f"at most {percent(PROMISED, 0)}", f"{percent(missed)} ({worst.name})", missed <= PROMISED)


def _prequal_is_prequal(comparisons: Sequence[Comparison]) -> Goal | None:
    case = at(comparisons)
    if case is None or "prequal" not in case.runs:
        return None
    met = case.interval("prequal", "attainment")
    what = "Our Prequal is a good one: attainment, FIFO, load 0.7"
    return Goal(what, "at least 85 %", f"{plus_minus(met, 1, 100)} %", met.mean >= 0.85)


def _nobody_beats_the_bound(comparisons: Sequence[Comparison]) -> Goal | None:
    """A policy above the bound is a fault of the simulator."""
    bounded = [case for case in comparisons if case.limit is not None]
    if not bounded:
        return None
    above = [
        f"{name} ({case.name})"
        for case in bounded
        for name in case.runs
        if case.limit is not None and case.mean(name, "attainment") > case.limit.attainment + ROUNDING
    ]
    return Goal("No policy above the fluid bound, any case", "none", ", ".join(above) or "none", not above)


CHECKS: Final[tuple[Callable[[Sequence[Comparison]], Goal | None], ...]] = (
    _lead_over_prequal,
    _behind_clairvoyant("fifo", 0.03),
    _behind_clairvoyant("edf", 0.015),
    _cost_against("prequal", 0.9),
    _cost_against("clairvoyant", 1.12),
    _staleness,
    _overload,
    _promises,
    _prequal_is_prequal,
    _nobody_beats_the_bound,
)


def losses(comparisons: Sequence[Comparison]) -> list[str]:
    """Cases in which a policy that a gateway can run kept more deadlines than the shipped one, beyond doubt."""
    lines = []
    for case in comparisons:
        if OURS not in case.runs:
            continue
        better = [
            f"{name} {_points(case.difference(name, 'attainment', OURS))}"
            for name in case.runs
            if real(name) and name != OURS and _above(case.difference(name, "attainment", OURS))
        ]
        if better:
            lines.append(f"{case.name}: {', '.join(better)}")
    return lines


def _above(difference: Interval) -> bool:
    return difference.half is not None and difference.mean > difference.half
