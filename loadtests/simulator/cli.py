"""The command `isochrone simulate`: a scenario, policies and seeds in; figures, a table and a report out.

Exit status: 0 when it ran, 1 when it broke, 2 when the options or a file cannot be used.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn

from loadtests.report import progress, screen
from loadtests.rows import FileError
from loadtests.simulator import definitions, statistics
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.definitions import Case
from loadtests.simulator.limits import limits
from loadtests.simulator.result import Run
from loadtests.simulator.runs import rated, run_all
from loadtests.simulator.tables import Tables
from loadtests.simulator.world import Queue

FILE = click.Path(path_type=Path, dir_okay=False)
POSITIVE = click.FloatRange(min=0, min_open=True)


class Numbers(click.ParamType):
    """One positive number, or several with commas between them."""

    name = "number[,number]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        number = click.FloatRange(min=0, min_open=True)
        return [number(part, param, ctx) for part in str(value).split(",")]


class Names(click.ParamType):
    """Names with commas between them."""

    name = "name[,name]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]


@click.command()
@click.argument("scenario", default="headline")
@click.option("--policies", type=Names(), default="isochrone", show_default=True, help=f"Of {', '.join(CONTENDERS)}.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many, the same for all policies."
)
@click.option("--load", type=Numbers(), help="Share of the highest rate that could be served (1.0).")
@click.option("--heartbeat", type=Numbers(), help="Seconds between a worker's load reports.")
@click.option("--queue", type=Names(), help="fifo, edf (earliest deadline first, late ones dropped), or both.")
@click.option("--world", type=FILE, help="A world of your own for the scenario's changes.")
@click.option("--trace", type=FILE, help="Requests as recorded: Azure, Mooncake or lengths, see the README.")
@click.option("--rtt", type=FILE, help="Round trips between the regions (CSV).")
@click.option("--prices", type=FILE, help="US dollars per hour by region and accelerator (CSV).")
@click.option("--carbon", type=FILE, help="Grams of CO2 per kWh by region (CSV).")
@click.option("--seconds", type=POSITIVE, help="Length of a run.")
@click.option("--processes", type=click.IntRange(1), default=min(2, os.cpu_count() or 1), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--report", "page", type=FILE, help="Write a page that opens without a network.")
@click.option("--replay", type=FILE, multiple=True, help="What if: a gateway's decision log, instead of a scenario.")
@click.option("--foreign", type=FILE, help="What if: the log of another gateway (LiteLLM, Envoy, nginx), by --mapping.")
@click.option("--mapping", type=FILE, help="What its fields mean (YAML).")
@click.option(
    "--policy", multiple=True, metavar="NAME|FILE", help="What if: a policy by name, or a YAML file with one."
)
def simulate(
    scenario: str, policies: list[str], seeds: int, load: list[float] | None, heartbeat: list[float] | None,
    queue: list[str] | None, world: Path | None, trace: Path | None, rtt: Path | None, prices: Path | None,
    carbon: Path | None, seconds: float | None, processes: int, as_json: bool, page: Path | None,
    replay: tuple[Path, ...], foreign: Path | None, mapping: Path | None, policy: tuple[str, ...],
) -> None:  # fmt: skip
    """Run policies in a simulated world: SCENARIO is a file, or the name of a shipped one."""
    try:
        if replay or foreign is not None:
            _what_if(replay, foreign, mapping, policy or tuple(policies), as_json=as_json)
            return
        _check(policies, queue)
        overrides: dict[str, Any] = {
            "load": load, "control.heartbeat_s": heartbeat, "serving.queue": queue, "seconds": seconds,
            "demand.trace": str(trace) if trace is not None else None,
        }  # fmt: skip
        given = {name: one(value) for name, value in overrides.items() if value is not None}
        definition = definitions.read(scenario, given, base=world, tables=Tables(rtt, prices, carbon))
        cases = rated(definition.cases)
        runs = _run(cases, policies, range(1, seeds + 1), processes)
        comparisons = statistics.gather(runs, limits(cases, range(1, seeds + 1), processes))
        if page is not None:
            _write(page, scenario, comparisons, cases)
        _show(comparisons, page, as_json=as_json)
    except FileError as error:
        _fail(error, 2)
    except OSError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _what_if(
    replay: tuple[Path, ...], foreign: Path | None, mapping: Path | None, policies: Sequence[str], *, as_json: bool
) -> None:
    """Compare policies on what was really asked."""
    if (foreign is None) != (mapping is None) or (replay and foreign is not None):
        raise click.UsageError("a replay takes `--replay LOG`, or `--foreign LOG --mapping MAP`")
    from loadtests.simulator import whatif  # scipy and the log readers only when they are wanted

    with Progress(TextColumn("{task.description}"), console=Console(stderr=True), transient=True,
                  disable=not sys.stderr.isatty()) as bar:  # fmt: skip
        task = bar.add_task("reading", total=None)
        history = whatif.read(replay, foreign, mapping)
        runs = [whatif.named(name) for name in policies]
        answer = whatif.compare(history, runs, 1, lambda name: bar.update(task, description=f"simulating {name}"))
    if as_json:
        click.echo(json.dumps(whatif.encode(answer)))
        return
    screen().print(whatif.table(answer))
    for line in (whatif.error(answer), *answer.notes):
        click.echo(line)


def one(value: Any) -> Any:
    """A list of one is that one: nothing varies."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _check(policies: list[str], queue: list[str] | None) -> None:
    unknown = [name for name in policies if name not in CONTENDERS]
    if unknown or not policies:
        raise click.BadParameter(
            f"no policy is called {unknown[0]!r}; there are {', '.join(CONTENDERS)}" if unknown else "none is named",
            param_hint="--policies",
        )
    orders = [order.value for order in Queue]
    for name in queue or ():
        if name not in orders:
            raise click.BadParameter(
                f"no order is called {name!r}; there are {', '.join(orders)}", param_hint="--queue"
            )


def _run(cases: Sequence[Case], policies: Sequence[str], seeds: Sequence[int], processes: int) -> list[Run]:
    """All runs, with a bar on the terminal while they last."""
    total = len(cases) * len(policies) * len(seeds)
    with progress() as bar:
        task = bar.add_task(cases[0].world.name, total=total)

        def ended(run: Run) -> None:
            bar.update(task, advance=1, description=f"{run.scenario}: {run.policy}, seed {run.seed}")

        return run_all(cases, policies, seeds, processes, ended)


def _write(path: Path, scenario: str, comparisons: list[statistics.Comparison], cases: Sequence[Case]) -> None:
    from loadtests.simulator import page  # plotly only when a page is wanted

    title = f"Isochrone: {comparisons[0].scenario}"
    worlds, source = [case.world for case in cases], definitions.find(scenario).read_text()
    page.write(path, page.Report(title=title, comparisons=comparisons, worlds=worlds, definition=source))


def _show(comparisons: list[statistics.Comparison], page: Path | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(statistics.document(comparisons))))
        return
    for comparison in comparisons:
        screen().print(statistics.table(comparison))
    if page is not None:
        click.echo(f"The report is {page}")


def _fail(error: Exception, status: int) -> None:
    click.echo(f"isochrone: {error}", err=True)
    sys.exit(status)
