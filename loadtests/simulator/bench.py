"""How fast the simulator is, and where the time goes: `make bench-sim`.

One process simulates the headline world under the shipped policy. Every millisecond of CPU time a signal looks where
the program is; what it finds is counted by the verb of the router or the part of the simulator that is at work.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import click
from msgspec.structs import replace
from rich.table import Table

from loadtests.report import screen
from loadtests.simulator import definitions
from loadtests.simulator.runs import planned, rated, simulate
from loadtests.simulator.world import World
from policies.router import Router

EVERY_S = 0.001
GOAL = 200_000
"""Requests per minute on one core."""
PARTS = {
    "timeline": "events",
    "registry": "control_plane",
    "edge": "edges",
    "call": "edges",
    "serving": "workers",
    "queueing": "workers",
    "batching": "workers",
    "machine": "workers",
    "delay": "ways",
    "wan": "ways",
    "runs": "arrivals",
}
"""Files of the simulator by what they are part of."""


class Speed(NamedTuple):
    requests_per_minute: float
    requests: int
    cpu_s: float
    share_of_time: dict[str, float]


def measure(world: World, policy: str = "isochrone", seed: int = 1) -> Speed:
    """One run; the plan is drawn before it begins."""
    plan = planned(world, seed)
    simulate(replace(world, seconds=2.0, warm_up=0.0), policy, seed, plan=plan[:200])  # imports and caches
    with watched() as seen:
        began = time.process_time()
        run = simulate(world, policy, seed, plan=plan)
        took = time.process_time() - began
    total = sum(seen.values()) or 1
    shares = {part: count / total for part, count in seen.most_common()}
    return Speed(run.requests / took * 60.0, run.requests, took, shares)


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Count what is at work, while this lasts."""
    verbs: dict[CodeType, str] = {
        Router.route.__code__: "router_route",
        Router.report.__code__: "router_report",
        Router.observe.__code__: "observe",
        Router.tick.__code__: "tick",
    }
    seen: Counter[str] = Counter()

    def look(number: int, frame: FrameType | None) -> None:
        part = ""
        while frame is not None:
            code = frame.f_code
            verb = verbs.get(code)
            if verb is not None:
                part = verb
                break
            part = part or PARTS.get(Path(code.co_filename).stem, "")
            frame = frame.f_back
        seen[part or "other"] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def headline() -> World:
    (case, *_) = rated(definitions.read("headline").cases)
    return case.world


@click.command()
@click.option("--policy", default="isochrone", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("build/bench/sim_speed.json"), show_default=True
)
def main(policy: str, output: Path) -> None:
    """Measure, print, write."""
    speed = measure(headline(), policy)
    document: dict[str, Any] = speed._asdict()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n")
    table = Table(title=f"{speed.requests} requests in {speed.cpu_s:.1f} s of one core", title_justify="left")
    table.add_column("part")
    table.add_column("share of time", justify="right")
    for part, share in speed.share_of_time.items():
        table.add_row(part, f"{share:.1%}")
    screen().print(table)
    click.echo(f"{speed.requests_per_minute:,.0f} requests a minute; {GOAL:,} were wanted. Written to {output}")


if __name__ == "__main__":
    main()
