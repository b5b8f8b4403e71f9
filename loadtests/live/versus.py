"""Simulated against real (`make sim-vs-real`): one world, one plan, once in virtual time and once in processes.

Real are the gateways, their registry, their probes, their connections and the WAN proxy between them and the workers;
emulated are the workers, by the simulator's own model written a second time (accelerator.py). Both see the same
requests with the same noise. What differs beyond the tolerance is traced to a part: network, queue, prefill, decode,
or the gateways' and this machine's own time. `run` is `trial.py`'s; here stands what the two are compared by.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import click
import msgspec
from rich.table import Table

from loadtests import report
from loadtests.live import trial
from loadtests.live.trial import Observed, Parts
from loadtests.processes import ChildError
from loadtests.rows import FileError
from loadtests.simulator import definitions
from loadtests.simulator.world import WorldError

POINTS = 2.0
"""Of attainment, in percent."""
SHARE = 0.10
"""Of a quantile."""
QUANTILES = (0.5, 0.9, 0.99)
SEEDS = 8
"""Simulations of the same plan in other weather: routing is chaotic, and one run is not the rule."""
WORTH_SAYING = 0.05
"""Of all differences: a part that adds less is not blamed."""
OUTPUT = Path("build/bench/sim_vs_real.json")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, twice."""

    name: str
    unit: str
    simulated: float
    real: float
    spread: float
    """Standard deviation of the simulated ones, of which `simulated` is the mean."""
    within: bool | None = None
    """Whether the two agree; None where nothing is asked of them."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `build/bench/sim_vs_real.json` holds."""

    world: str
    requests: int
    agrees: bool
    figures: tuple[Line, ...]
    parts: tuple[Line, ...]
    blame: tuple[str, ...]
    """Which part is off, most first; empty when all agrees."""


def judge(world: str, simulated: Sequence[Observed], real: Observed) -> Verdict:
    """Compare a real run with the mean of simulated ones of the same plan."""
    runs = (*simulated, real)
    figures = [_line("in deadline", "%", [100 * fmean(seen.met for seen in one.seen) for one in runs], points=POINTS)]
    for what in ("first token", "total"):
        for share in QUANTILES:
            values = [report.percentile(_times(one, what), share) for one in runs]
            figures.append(_line(f"{what} p{share * 100:g}", "s", values, share=SHARE))
    figures.append(_line("answered", "%", [100 * _answered(one) for one in runs]))
    figures.append(_line("cost per 1k in deadline", "$", [_cost(one) for one in runs]))
    figures.append(_line("attempts per request", "", [fmean(seen.attempts for seen in one.seen) for one in runs]))
    usual = Observed([seen for one in simulated for seen in one.seen], [])
    moved = [100 * _moved(usual, one) for one in runs]
    figures.append(_line("answered by another group of nodes", "%", moved))
    parts = [
        _line(f"{part.replace('_', ' ')}, {what}", "s", [_part(one, part, what) for one in runs])
        for part in Parts._fields
        for what in ("mean", "p90")
    ]
    agrees = all(line.within is not False for line in figures)
    return Verdict(
        world=world,
        requests=len(real.seen),
        agrees=agrees,
        figures=tuple(figures),
        parts=tuple(parts),
        blame=() if agrees else tuple(_blame(parts, moved)),
    )


def _line(
    name: str, unit: str, values: Sequence[float], *, points: float | None = None, share: float | None = None
) -> Line:
    """The last value is the real one. `points` and `share` are what is granted, absolutely or relatively."""
    mean, real = fmean(values[:-1]), values[-1]
    granted = share * mean if share is not None else points
    return Line(
        name=name, unit=unit, simulated=mean, real=real, spread=_spread(values[:-1]),
        within=None if granted is None else abs(real - mean) <= granted,
    )  # fmt: skip


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _times(one: Observed, what: str) -> list[float]:
    picked = [seen.first if what == "first token" else seen.total for seen in one.seen]
    return [seconds for seconds in picked if seconds is not None]


def _answered(one: Observed) -> float:
    return sum(seen.total is not None for seen in one.seen) / len(one.seen)


def _cost(one: Observed) -> float:
    met = sum(seen.met for seen in one.seen)
    return sum(seen.cost for seen in one.seen) / met * 1e3 if met else math.inf


def _part(one: Observed, part: str, what: str) -> float:
    values = [getattr(parts, part) for parts in one.parts]
    return fmean(values) if what == "mean" else report.percentile(values, 0.9)


def _moved(base: Observed, other: Observed) -> float:
    """Share of the answers that would have to change their group of nodes: total variation."""
    shares = [Counter(seen.group for seen in one.seen if seen.group) for one in (base, other)]
    totals = [sum(counted.values()) or 1 for counted in shares]
    groups = shares[0].keys() | shares[1].keys()
    return sum(abs(shares[0][name] / totals[0] - shares[1][name] / totals[1]) for name in groups) / 2


def _blame(parts: Sequence[Line], moved: Sequence[float]) -> list[str]:
    """The parts by how much they add to the difference of the mean."""
    means = [line for line in parts if line.name.endswith("mean") and not line.name.startswith("predicted")]
    total = sum(abs(line.real - line.simulated) for line in means) or 1.0
    said = [
        f"{line.name.removesuffix(', mean')}: {line.real - line.simulated:+.4f} s in the mean, "
        f"{abs(line.real - line.simulated) / total:.0%} of all differences"
        for line in sorted(means, key=lambda line: -abs(line.real - line.simulated))
        if abs(line.real - line.simulated) > max(2 * line.spread, WORTH_SAYING * total)
    ]
    usual = max(moved[1:-1], default=0.0)
    if moved[-1] > max(2 * usual, 5.0):
        said.append(
            f"decisions: {moved[-1]:.0f} % of the answers came from another group of nodes ({usual:.0f} % by chance)"
        )
    return said or ["no part is off by more than chance: the difference is of this run"]


# For people.


def table(verdict: Verdict) -> Table:
    made = Table(title=f"{verdict.world}: {verdict.requests} requests, simulated and real", title_justify="left")
    for name in ("", "simulated", "real", "difference", "one run", "agrees"):
        made.add_column(name, justify="left" if not name else "right")
    for lines in (verdict.figures, verdict.parts):
        for line in lines:
            made.add_row(line.name, *_shown(line))
        made.add_section()
    return made


def _shown(line: Line) -> tuple[str, ...]:
    change = line.real - line.simulated
    relative = f" ({change / line.simulated:+.1%})" if line.unit in ("s", "$") and line.simulated else ""
    agrees = "" if line.within is None else "yes" if line.within else "NO"
    return (
        f"{line.simulated:.4g} {line.unit}", f"{line.real:.4g} {line.unit}", f"{change:+.3g}{relative}",
        f"±{line.spread:.2g}", agrees,
    )  # fmt: skip


@click.command()
@click.argument("source", default="versus")
@click.option("--policy", default="cheapest_in_deadline", show_default=True, help="A preset of the gateway.")
@click.option("--seed", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(source: str, policy: str, seed: int, output: Path) -> None:
    """Run the world SOURCE both ways and compare. Exit status 0 when they agree."""
    try:
        world = definitions.read(source).cases[0].world
        simulated = [trial.simulate(world, policy, seed, weather) for weather in range(seed, seed + SEEDS)]
        click.echo(f"simulated {len(simulated[0].seen)} requests; now {world.seconds:.0f} s in processes ...", err=True)
        real = trial.run(world, policy, seed, lambda line: click.echo(f"  {line}", err=True))
    except (FileError, WorldError, ChildError, OSError) as error:
        raise click.ClickException(str(error)) from error
    verdict = judge(world.name, simulated, real)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    report.screen().print(table(verdict))
    for line in verdict.blame:
        click.echo(f"off: {line}")
    click.echo(f"{'They agree' if verdict.agrees else 'They differ'}; written to {output}.")
    sys.exit(0 if verdict.agrees else 1)


if __name__ == "__main__":
    main()
