"""`make sim`: the headline's six policies and the fluid bound, under every load, heartbeat and order of queues.

Writes docs/results.md (people), build/bench/sim.json (machines) and build/bench/sim.html (both). It has to end in a
quarter of an hour on two cores that others use too, which decides the length of a run and the number of seeds.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import click
import msgspec

from loadtests.report import progress, screen
from loadtests.rows import FileError
from loadtests.simulator import definitions, goals, markdown, page, statistics
from loadtests.simulator.definitions import Case
from loadtests.simulator.goals import HEARTBEAT, LENGTH, LOAD, QUEUE
from loadtests.simulator.kept import Kept
from loadtests.simulator.limits import limits
from loadtests.simulator.result import Run
from loadtests.simulator.runs import rated, run_all
from loadtests.simulator.statistics import Comparison
from loadtests.simulator.world import World, WorldError

POLICIES: Final = ("round_robin", "least_outstanding", "peak_ewma", "prequal", "isochrone", "clairvoyant")
GRID: Final[dict[str, list[Any]]] = {
    QUEUE: ["fifo", "edf"],
    HEARTBEAT: [0.1, 1.0, 5.0],
    LOAD: [0.5, 0.7, 0.95, 1.1],
}
SECONDS, WARM_UP = 8.0, 4.0
"""Of a run in the grid. The world's own 40 s would take an hour; overload has less time to build up in these."""
SEEDS, CENTRE_SEEDS = 3, 4
"""In the grid, and where the headline speaks: there runs are as long as the world says, and more of them."""
BUILD: Final = Path("build/bench")
RESULTS: Final = Path("docs/results.md")


class Part(NamedTuple):
    """Cases that are run with as many seeds."""

    cases: list[Case]
    seeds: range


def parts() -> list[Part]:
    """The centre in its full length, in both orders of queues; then the grid in short. With the rate of load 1.0."""
    centre = {QUEUE: GRID[QUEUE], HEARTBEAT: [goals.CENTRE[HEARTBEAT]], LOAD: [goals.CENTRE[LOAD]]}
    short = {**GRID, "seconds": SECONDS, "warm_up": WARM_UP}
    return [
        Part(_timed(definitions.read("headline", centre).cases), range(1, CENTRE_SEEDS + 1)),
        Part(_timed(definitions.read("headline", short).cases), range(1, SEEDS + 1)),
    ]


def _timed(cases: Sequence[Case]) -> list[Case]:
    """Labels that tell long runs from short ones."""
    return [Case({**label, LENGTH: world.seconds}, world) for label, world in rated(cases)]


def simulate(
    wanted: Sequence[Part], processes: int, kept: Kept, policies: Sequence[str] = POLICIES
) -> list[Comparison]:
    """All runs and bounds, in the order of the cases."""
    comparisons: list[Comparison] = []
    with progress() as bar:
        task = bar.add_task("headline", total=sum(len(part.cases) * len(part.seeds) for part in wanted) * len(policies))

        def ended(run: Run) -> None:
            bar.update(task, advance=1, description=f"{statistics.named(run.case)}: {run.policy}")

        for cases, seeds in wanted:
            runs = run_all(cases, policies, seeds, processes, ended, kept)
            bar.update(task, description="fluid bounds")
            comparisons += statistics.gather(runs, limits(cases, seeds, processes))
    return comparisons


def write(
    comparisons: Sequence[Comparison], worlds: Sequence[World], how: markdown.Circumstances, build: Path, results: Path
) -> None:
    """The three files. `worlds` are those of the comparisons."""
    centre = goals.at(comparisons) or comparisons[0]
    focus = [one.label for one in comparisons].index(centre.label)
    build.mkdir(parents=True, exist_ok=True)
    results.parent.mkdir(parents=True, exist_ok=True)
    document = statistics.document(comparisons) | {
        "made": msgspec.to_builtins(how),
        "goals": [goal._asdict() for goal in goals.goals(comparisons)],
    }
    (build / "sim.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    page.write(
        build / "sim.html",
        page.Report(
            title="Isochrone: the headline world", comparisons=comparisons, worlds=worlds, focus=focus,
            definition=definitions.find("headline").read_text(),
        ),
    )  # fmt: skip
    results.write_text(markdown.render(comparisons, worlds[focus], how))


def end_with_parent() -> None:
    """A plain kill ends the pool at once, as Ctrl-C does; without that its processes would work on."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            child.terminate()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@click.command()
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run has kept.")
@click.option("--build", type=click.Path(path_type=Path, file_okay=False), default=BUILD, show_default=True)
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS, show_default=True)
def main(processes: int, resume: bool, build: Path, results: Path) -> None:
    """Simulate the headline world and write what came of it."""
    end_with_parent()
    path = build / "sim_runs.jsonl"
    if not resume:
        path.unlink(missing_ok=True)
    began, kept = time.monotonic(), Kept(path)
    resumed = len(kept) > 0
    try:
        wanted = parts()
        comparisons = simulate(wanted, processes, kept)
    except (FileError, WorldError) as error:
        raise click.ClickException(str(error)) from error
    took_s = time.monotonic() - began
    how = markdown.circumstances(comparisons, processes, None if resumed else took_s)
    write(comparisons, [case.world for part in wanted for case in part.cases], how, build, results)
    for queue in ("fifo", "edf"):
        shown = goals.at(comparisons, queue=queue)
        if shown is not None:
            screen().print(statistics.table(shown))
    click.echo(f"{took_s / 60:.1f} minutes. {results}, {build / 'sim.json'}, {build / 'sim.html'}")


if __name__ == "__main__":
    main()
