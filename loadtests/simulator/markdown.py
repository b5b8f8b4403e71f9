"""docs/results.md: the headline in words and tables, how to read them, and what is not good yet.

Written by `make sim` from the figures alone; nobody edits it by hand, so that it never says more than was measured.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from loadtests.simulator import findings, goals
from loadtests.simulator.goals import HEARTBEAT, LENGTH, LOAD, QUEUE
from loadtests.simulator.result import Interval
from loadtests.simulator.statistics import COLUMNS, OURS, Comparison, bounds, cells, plus_minus, ranked
from loadtests.simulator.world import World


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the figures were made."""

    made: str
    """ISO date."""
    machine: str
    python: str
    processes: int
    took_s: float | None
    """Wall time of all runs; none of those that were interrupted and resumed."""
    busy_s: float
    """CPU seconds of all runs."""
    requests: int
    runs: int
    note: str = ""
    """What was different about this time."""


def circumstances(comparisons: Sequence[Comparison], processes: int, took_s: float | None) -> Circumstances:
    runs = [run for one in comparisons for of_policy in one.runs.values() for run in of_policy]
    return Circumstances(
        made=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=f"{processor()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        processes=processes,
        took_s=took_s,
        busy_s=sum(run.cpu_s for run in runs),
        requests=sum(run.requests for run in runs),
        runs=len(runs),
    )


def processor() -> str:
    """The CPU's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def render(comparisons: Sequence[Comparison], world: World, how: Circumstances) -> str:
    centre = goals.at(comparisons) or comparisons[0]
    edf = goals.at(comparisons, queue="edf")
    parts = [
        "# Results: the headline world\n",
        _opening(comparisons, world, how),
        "## In words\n",
        f"At the centre ({centre.name}):\n",
        *_bullets(findings.verdict(centre)),
    ]
    if edf is not None:
        parts += [
            f"\nThe same with workers that take the earliest deadline first and drop what is late ({edf.name}):\n"
        ]
        parts += _bullets(findings.verdict(edf))
    parts += ["\n## How to read the tables\n", GUIDE, "## The centre in full\n"]
    for case in (centre, edf):
        if case is not None:
            parts += [f"### {case.name}\n", _full(case)]
    grids = _grids(comparisons)
    if grids:
        parts += ["## Along the load and the heartbeat\n", ALONG, *grids]
    parts += ["## What each class got\n", _classes([case for case in (centre, edf) if case is not None], world)]
    parts += [
        "## Goals\n",
        GOALS,
        _goals(comparisons),
        "## What is not good yet\n",
        *_shortcomings(comparisons, centre),
    ]
    parts += ["\n## The world\n", _table(("what", "how"), findings.assumptions(world), ":"), SOURCES]
    parts += ["## How to reproduce\n", _reproduce(comparisons, how)]
    return "\n".join(parts)


def _opening(comparisons: Sequence[Comparison], world: World, how: Circumstances) -> str:
    took = (
        "in several sittings" if how.took_s is None else f"{how.took_s / 60:.1f} minutes with {how.processes} processes"
    )
    few, many = min(len(one.seeds) for one in comparisons), max(len(one.seeds) for one in comparisons)
    return (
        f"{world.about} {how.requests:,} simulated requests in {how.runs} runs: {len(comparisons)} cases,"
        f" {few if few == many else f'{few} to {many}'} paired seeds each. Made by `make sim` on {how.made}"
        f" ({how.machine}, Python {how.python}; {how.busy_s / 60:.0f} CPU minutes, {took})."
        f"{how.note and ' '}{how.note}\n"
    )


GUIDE: Final = """\
- **In deadline**: share of *all offered* requests that met every deadline; refused and lost ones are misses.
- **±** is half the 95 % interval (Student's t over seeds). Seeds are paired: in one seed every policy meets the same
  requests, the same noise and the same slow periods, so the *paired difference* (points of attainment, against the
  shipped policy) is far surer than the two intervals beside it suggest.
- **$ per 1k**: all accelerator time spent, wasted work included, and egress, per 1,000 requests in deadline. **Fleet
  $**: the bill for every node all of the time, over the same 1,000.
- **Accepted**: share of the offered requests that the router promised their deadline; **missed of accepted**: how
  many of those promises it broke. Baselines that predict nothing promise by the product's own estimate.
- **p50, p99**: seconds to the first token of answered requests. **Herd**: the most that came to one node within one
  age of its news, over what it can serve in that time. **Jain**: fairness between client regions, 1 is even. **µs**:
  CPU time of one decision, measured while the machine did other things too.
- `clairvoyant` sees every queue as it is and prices congestion: no gateway can run it. `fluid bound` is a linear
  program without queues or chance, which grants a run all its luck: nobody can keep more deadlines, or keep as many for
  less. `fluid, steady` is the same program in the long run, where what comes must be served as fast as it comes.
- Load 1.0 is the highest rate at which the fluid program still serves 99 % in deadline.
"""
ALONG: Final = (
    "Percent in deadline, and US dollars per 1,000 in deadline. Columns are loads; the heartbeat is how old the news of"
    " a queue may get. Runs are shorter here than at the centre, so that overload has less time to build up: compare"
    " policies within a table, not these tables with those above.\n"
)
GOALS: Final = "What the project set out to reach here, set before the figures were known.\n"
SOURCES: Final = """
Where round trips, prices, sizes and service times come from stands at the head of
[`headline.yaml`](../loadtests/scenarios/headline.yaml), with what in it is illustrative.
"""


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """`align` as Markdown has it; the first column is always left."""
    marks = ["---", *(f"---{'' if align == ':' else ':'}" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows)) + "\n"


def _full(case: Comparison) -> str:
    rows = [[_named(name), *cells(case, name)] for name in ranked(case)]
    rows += bounds(case)
    return _table(("policy", *COLUMNS), rows)


def _named(policy: str) -> str:
    return f"**{policy}**" if policy == OURS else policy


def _grids(comparisons: Sequence[Comparison]) -> list[str]:
    """Per queue and heartbeat: attainment and cost by load."""
    parts = []
    groups: dict[tuple[object, object, object], list[Comparison]] = {}
    for one in comparisons:
        label = one.label
        groups.setdefault((label.get(QUEUE), label.get(HEARTBEAT), label.get(LENGTH)), []).append(one)
    for (queue, heartbeat, length), cases in groups.items():
        if len(cases) < 2:
            continue
        cases.sort(key=lambda one: float(one.label.get(LOAD, 0)))
        loads = [f"load {one.label.get(LOAD)}" for one in cases]
        how = f"{min(len(one.seeds) for one in cases)} seeds" + (f" of {length:g} s" if length else "")
        parts.append(f"### {str(queue).upper()} queues, heartbeats of {heartbeat:g} s ({how})\n")
        head = ["policy", *(f"% {load}" for load in loads), *(f"$ {load}" for load in loads)]
        rows = [
            [
                _named(name),
                *_each(cases, name, "attainment", lambda one: plus_minus(one, 1, 100)),
                *_each(cases, name, "cost_per_1k", lambda one: plus_minus(one, 4)),
            ]
            for name in ranked(cases[0])
        ]
        columns = [bounds(one) for one in cases]
        if all(columns):
            rows += [
                [each[0][0], *(row[1] for row in each), *(row[3] for row in each)]
                for each in zip(*columns, strict=True)
            ]
        parts.append(_table(head, rows))
    return parts


def _each(cases: Sequence[Comparison], policy: str, figure: str, show: Callable[[Interval], str]) -> list[str]:
    return [show(one.interval(policy, figure)) for one in cases]


def _classes(cases: Sequence[Comparison], world: World) -> str:
    names = [kind.name for kind in world.demand.classes]
    head = ["policy", *(f"{case.label.get(QUEUE)} {name}" for case in cases for name in names)]
    rows = []
    for policy in ranked(cases[0]):
        row = [_named(policy)]
        for case in cases:
            for name in names:
                got = [run.detail.by_class.get(name, 0.0) for run in case.runs[policy]]
                row.append(f"{100 * sum(got) / len(got):.1f}")
        rows.append(row)
    return "Percent in deadline by deadline class, at the centre.\n\n" + _table(head, rows)


def _goals(comparisons: Sequence[Comparison]) -> str:
    rows = [(one.what, one.wanted, one.got, "met" if one.met else "**missed**") for one in goals.goals(comparisons)]
    return _table(("goal", "wanted", "got", ""), rows, ":")


def _shortcomings(comparisons: Sequence[Comparison], centre: Comparison) -> list[str]:
    """What the figures themselves hold against the shipped policy, and what no figure here can say."""
    missed = [one for one in goals.goals(comparisons) if not one.met]
    lines = [f"Missed: {one.what}: {one.got} (wanted: {one.wanted})." for one in missed]
    losses = goals.losses(comparisons)
    if losses:
        lines.append(f"In {len(losses)} of {len(comparisons)} cases another policy kept more deadlines beyond doubt:")
        lines += [f"  {loss}" for loss in losses]
    cheaper = [line for line in findings.beaten(centre) if " cost " in line]
    lines += [f"At the centre {line}." for line in cheaper]
    return _nested(lines) + _bullets(CAVEATS)


def _nested(lines: Iterable[str]) -> list[str]:
    return [f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in lines]


CAVEATS: Final = (
    "One world: a made-up day in ten regions with one model. It shows how policies compare there, not what they would"
    " do elsewhere; `make sim-all` runs the other scenarios.",
    "Round trips are pings of 2020, prices one day's spot list, A100 and L4 service times a roofline scaled from"
    " measured H100 points; the overhead, interference and the depth of the day curve are illustrative.",
    "A busy accelerator is billed as divisible, by the share a request used. Whoever pays for whole nodes looks at the"
    " fleet column.",
    "Routers know the mean sizes of a class and the profile of a node exactly; in the field both are learned.",
    "The bound grants every request its luck and ignores queues, so that part of the distance to it is nobody's fault.",
)


def _reproduce(comparisons: Sequence[Comparison], how: Circumstances) -> str:
    rate = how.requests / how.busy_s * 60 if how.busy_s else 0
    world = comparisons[0].scenario
    return f"""\
```
make sim         # this page, build/bench/sim.json and build/bench/sim.html
make sim-all     # every scenario and policy; hours, goes on where it was interrupted
isochrone simulate {world} --policies isochrone,prequal --seeds 10 --load 0.7 --heartbeat 1 --report out.html
```

Runs are pure functions of world, policy and seed: the same code gives the same figures, but for µs. One core simulated
{rate:,.0f} requests a minute here, the shipped router's decisions included.
"""
