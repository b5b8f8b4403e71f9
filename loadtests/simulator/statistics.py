"""Seeds made into figures: means, 95 % intervals and paired differences; JSON for machines, tables for people.

A seed fixes the plan of requests and every other draw, so two policies meet the same requests in the same weather.
The interval of their *difference* over seeds is therefore what compares them, not the overlap of their own intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.table import Table
from scipy.special import stdtrit

from loadtests.report import milliseconds
from loadtests.simulator.result import Figures, Interval, Run, Value

FIGURES: Final[tuple[str, ...]] = Figures.__struct_fields__
OURS: Final = "isochrone"
"""The shipped policy: the reference of paired differences wherever it ran."""
CONFIDENCE: Final = 0.95

Label = Mapping[str, Value]
"""What of a scenario was varied."""


class Limit(msgspec.Struct, frozen=True):
    """What nobody can beat in these runs (fluid.py): the most in deadline, and the least cost of that."""

    attainment: float
    cost_per_1k: float
    steady_attainment: float
    """The same at a steady rate without end: no luck, and no work left over for after the run."""
    steady_cost_per_1k: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What all policies made of one case of a scenario, on the same seeds."""

    scenario: str
    label: Label
    seeds: tuple[int, ...]
    runs: dict[str, tuple[Run, ...]]
    """By policy; in each the order is that of `seeds`."""
    limit: Limit | None = None

    @property
    def name(self) -> str:
        """Such as `fifo queue, load 0.7, heartbeat 1 s`."""
        return named(self.label)

    @property
    def reference(self) -> str:
        """The policy the others are compared with."""
        return OURS if OURS in self.runs else next(iter(self.runs))

    def interval(self, policy: str, figure: str) -> Interval:
        return interval([getattr(run.figures, figure) for run in self.runs[policy]])

    def mean(self, policy: str, figure: str) -> float:
        return self.interval(policy, figure).mean

    def difference(self, policy: str, figure: str, reference: str | None = None) -> Interval:
        """Of `policy` less `reference`, seed by seed."""
        pairs = zip(self.runs[policy], self.runs[reference or self.reference], strict=True)
        return interval([getattr(one.figures, figure) - getattr(other.figures, figure) for one, other in pairs])


def named(label: Label) -> str:
    """A case in words."""
    return ", ".join(in_words(dotted, value) for dotted, value in label.items())


def in_words(dotted: str, value: object) -> str:
    """`control.heartbeat_s` and 5.0 as `heartbeat 5 s`."""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if dotted == "case":
        return shown
    if dotted == "serving.queue":
        return f"{shown.upper()} queue"
    if dotted == "seconds":
        return f"{shown} s long"
    word, _, unit = heading(dotted).partition(", ")
    return f"{word} {shown} {unit}".rstrip()


def heading(dotted: str) -> str:
    """`control.heartbeat_s` as `heartbeat, s`."""
    if dotted == "seconds":
        return "length, s"
    word = dotted.rpartition(".")[2]
    return word.removesuffix("_s").replace("_", " ") + (", s" if word.endswith("_s") else "")


def interval(values: Iterable[float]) -> Interval:
    """Mean and half width by Student's t. What a run left undefined (NaN) does not count; infinity has no interval."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Interval(math.nan, None)
    mean = sum(known) / len(known)
    freedom = len(known) - 1
    if not freedom or not math.isfinite(mean):
        return Interval(mean, None)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / freedom)
    return Interval(mean, float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(len(known)))


def key(label: Label) -> tuple[tuple[str, object], ...]:
    """A label as something to look up by."""
    return tuple(sorted(label.items()))


def gather(
    runs: Iterable[Run], limits: Mapping[tuple[str, tuple[tuple[str, object], ...]], Limit] | None = None
) -> list[Comparison]:
    """Runs by case, in the order they first came. Seeds that not every policy ran are left out: they pair nothing.

    `limits` are looked up by scenario and `key` of its label.
    """
    groups: dict[tuple[str, tuple[tuple[str, object], ...]], dict[str, dict[int, Run]]] = {}
    for run in runs:
        groups.setdefault((run.scenario, key(run.case)), {}).setdefault(run.policy, {})[run.seed] = run
    cases = []
    for (scenario, label), policies in groups.items():
        seeds = tuple(sorted(set.intersection(*(set(by_seed) for by_seed in policies.values()))))
        first = next(iter(next(iter(policies.values())).values()))
        if not seeds:
            raise ValueError(f"{scenario} {dict(label)}: no seed was run under all of {', '.join(policies)}")
        cases.append(
            Comparison(
                scenario=scenario,
                label=first.case,
                seeds=seeds,
                runs={name: tuple(by_seed[seed] for seed in seeds) for name, by_seed in policies.items()},
                limit=(limits or {}).get((scenario, label)),
            )
        )
    return cases


def document(cases: Sequence[Comparison]) -> dict[str, Any]:
    """What `simulate --json` prints. A scenario that varies something has one entry per case under `cases`."""
    if len(cases) == 1 and not cases[0].label:
        return _one(cases[0])
    return {
        "scenario": cases[0].scenario,
        "seeds": max(len(case.seeds) for case in cases),
        "cases": [{"case": dict(case.label), **_one(case)} for case in cases],
    }


def _one(case: Comparison) -> dict[str, Any]:
    """Means; beside them the half widths, and each policy's paired difference to the reference. JSON knows no infinity:
    what has no finite figure is null."""
    intervals = {name: {figure: case.interval(name, figure) for figure in FIGURES} for name in case.runs}
    result: dict[str, Any] = {
        "scenario": case.scenario,
        "seeds": len(case.seeds),
        "policies": {
            name: {figure: _finite(one.mean) for figure, one in row.items()} for name, row in intervals.items()
        },
        "intervals": {name: {figure: one.half for figure, one in row.items()} for name, row in intervals.items()},
        "paired": {
            "reference": case.reference,
            "policies": {
                name: {figure: _pair(case.difference(name, figure)) for figure in FIGURES}
                for name in case.runs
                if name != case.reference
            },
        },
    }
    if case.limit is not None:
        result["bound"] = {name: _finite(value) for name, value in msgspec.structs.asdict(case.limit).items()}
    return result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pair(one: Interval) -> dict[str, float | None]:
    return {"mean": _finite(one.mean), "half": one.half}


def percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def plus_minus(one: Interval, digits: int, scale: float = 1.0) -> str:
    """`97.2 ± 0.5`, or `-` where there is nothing to show."""
    if not math.isfinite(one.mean):
        return "-"
    mean = f"{one.mean * scale:.{digits}f}"
    return mean if one.half is None else f"{mean} ± {one.half * scale:.{digits}f}"


def signed(one: Interval, digits: int, scale: float = 1.0) -> str:
    """A difference: `+0.4 ± 0.2`."""
    text = plus_minus(one, digits, scale)
    return text if text.startswith("-") else f"+{text}"


def cells(case: Comparison, policy: str) -> list[str]:
    """A policy's row, under `COLUMNS`."""
    row = {figure: case.interval(policy, figure) for figure in FIGURES}
    against = "" if policy == case.reference else signed(case.difference(policy, "attainment"), 1, 100)
    return [
        plus_minus(row["attainment"], 1, 100),
        against,
        plus_minus(row["cost_per_1k"], 4),
        plus_minus(row["fleet_cost_per_1k"], 2),
        plus_minus(row["accepted_share"], 1, 100),
        plus_minus(row["miss_rate_accepted"], 1, 100),
        plus_minus(row["rejected"], 1, 100),
        milliseconds(row["p50_s"].mean),
        milliseconds(row["p99_s"].mean),
        plus_minus(Interval(row["herd_index"].mean, None), 1),
        plus_minus(Interval(row["jain"].mean, None), 3),
        plus_minus(Interval(row["decision_us"].mean, None), 0),
    ]


COLUMNS: Final = (
    "in deadline %",
    "paired difference",
    "$ per 1k",
    "fleet $ per 1k",
    "accepted %",
    "missed of accepted %",
    "rejected %",
    "p50",
    "p99",
    "herd",
    "Jain",
    "µs",
)


def ranked(case: Comparison) -> list[str]:
    """Policies, most in deadline first."""
    return sorted(case.runs, key=lambda policy: -case.mean(policy, "attainment"))


def table(case: Comparison) -> Table:
    """A row per policy, most in deadline first, and the bound."""
    seeds = f"{len(case.seeds)} seeds, mean ± half the 95 % interval" if len(case.seeds) > 1 else "one seed"
    title = ": ".join(part for part in (case.scenario, case.name, seeds) if part)
    result = Table(title=f"{title}; differences to {case.reference}", title_justify="left")
    result.add_column("policy", no_wrap=True)
    for column in COLUMNS:
        result.add_column(column, justify="right")
    for policy in ranked(case):
        result.add_row(policy, *cells(case, policy), style="bold" if policy == case.reference else None)
    for row in bounds(case):
        result.add_row(*row, style="dim")
    return result


def bounds(case: Comparison) -> list[list[str]]:
    """The rows below the policies', if the bound is known: its name, then `COLUMNS`."""
    if case.limit is None:
        return []
    limit = case.limit
    rows = {
        "fluid bound": (limit.attainment, limit.cost_per_1k),
        "fluid, steady": (limit.steady_attainment, limit.steady_cost_per_1k),
    }
    return [
        [name, f"{met * 100:.1f}", "", f"{cost:.4f}", *("" for _ in COLUMNS[3:])] for name, (met, cost) in rows.items()
    ]
