"""`make sim-all`: every scenario that ships under every policy, however long it takes.

Each run is kept as it ends (build/bench/sim_all.jsonl), so that an interrupted evening goes on the next one. A
scenario gets a page of its own (build/bench/sim_NAME.html); all figures go into build/bench/sim_all.json. What cannot
be run is told at the end, and does not stop the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from loadtests.report import progress, screen
from loadtests.rows import FileError
from loadtests.simulator import definitions, page, statistics
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.headline import BUILD, end_with_parent
from loadtests.simulator.kept import Kept
from loadtests.simulator.limits import limits
from loadtests.simulator.result import Run
from loadtests.simulator.runs import rated, run_all
from loadtests.simulator.statistics import Comparison
from loadtests.simulator.world import WorldError

SEEDS: Final = 3
ALIASES: Final = frozenset({"cheapest_in_deadline"})
"""Other names of the shipped policy's balancer: the same decisions twice."""


def scenarios() -> list[str]:
    """Names of the numbered scenarios, S1 first."""
    return [name for name in definitions.shipped() if name[0] == "s" and name[1:3].isdecimal()]


def simulate(
    name: str, policies: Sequence[str], seeds: Sequence[int], processes: int, kept: Kept, build: Path
) -> list[Comparison]:
    """One scenario, and its page. Raises FileError, WorldError."""
    cases = rated(definitions.read(name).cases)
    with progress() as bar:
        task = bar.add_task(name, total=len(cases) * len(policies) * len(seeds))

        def ended(run: Run) -> None:
            bar.update(task, advance=1, description=f"{name}: {statistics.named(run.case)}: {run.policy}")

        runs = run_all(cases, policies, seeds, processes, ended, kept)
        bar.update(task, description=f"{name}: fluid bounds")
        comparisons = statistics.gather(runs, limits(cases, seeds, processes))
    report = page.Report(
        title=f"Isochrone: {name}", comparisons=comparisons, worlds=[case.world for case in cases],
        definition=definitions.find(name).read_text(),
    )  # fmt: skip
    page.write(build / f"sim_{name}.html", report)
    return comparisons


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=SEEDS, show_default=True)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@click.option("--only", multiple=True, metavar="SCENARIO", help="Not all of them: these. May be given again.")
@click.option("--policy", "policies", multiple=True, metavar="NAME", help="Not all of them: these. May be given again.")
@click.option("--build", type=click.Path(path_type=Path, file_okay=False), default=BUILD, show_default=True)
def main(seeds: int, processes: int, only: tuple[str, ...], policies: tuple[str, ...], build: Path) -> None:
    """Simulate every scenario under every policy, going on where an earlier run was interrupted."""
    end_with_parent()
    chosen = list(policies) or [name for name in CONTENDERS if name not in ALIASES]
    console, kept = Console(stderr=True), Kept(build / "sim_all.jsonl")
    if len(kept):
        console.print(f"{len(kept)} runs are kept in {kept.path}; remove it to begin anew", highlight=False)
    documents: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in only or scenarios():
        try:
            comparisons = simulate(name, chosen, range(1, seeds + 1), processes, kept, build)
        except (FileError, WorldError) as error:
            failed.append(f"{name}: {error}")
            continue
        documents.append(statistics.document(comparisons))
        for comparison in comparisons:
            screen().print(statistics.table(comparison))
    build.mkdir(parents=True, exist_ok=True)
    (build / "sim_all.json").write_text(json.dumps({"scenarios": documents}, indent=1, allow_nan=False) + "\n")
    for line in failed:
        console.print(f"[red]could not be run:[/red] {line}", highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
