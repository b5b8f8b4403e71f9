"""`make bench-batch`: requests in deadline per second, by how a worker forms its batches and how much is asked of it.

One engine (wide.py on ONNX Runtime, one thread), real worker processes that differ in `--batching` alone, the same
open-loop plans for all; load 1 is the throughput of full batches. The rules take turns within each load and seed, so
that a busy machine meets them alike. The best of the fixed delays is taken anew at every load. The same comparison
follows in virtual time (workers/replay.py: the queue that serves, with the curve just measured), where no neighbour
disturbs it and more seeds cost nothing; with `--curve` that alone. Writes build/bench/batch.json: `loads` (whose
`source` says whether by the clock) and `virtual`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import numpy as np
import uvloop
from rich.table import Table

from loadtests import report
from loadtests.live import wide
from loadtests.live.client import Client, Connection, Message
from loadtests.processes import Child, ChildError, end_all, isochrone
from loadtests.scratch import Scratch
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned, Surface

LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.15, 1.3)
"""Of the throughput of full batches."""
OURS = "isochrone"
DELAYS = (0.0, 1.0, 2.0, 5.0, 10.0)
WINDOW = 5.0
"""Milliseconds, as Triton's users and TorchServe's write them."""
RULES: Mapping[str, str] = {
    OURS: "slack",
    "none": "none",
    "fixed_window": f"fixed_window:{WINDOW:g}",
    **{f"fixed_delay:{ms:g}": f"fixed_delay:{ms:g}" for ms in DELAYS},
}
ASKED = "asked"
"""Beside the rules: requests per second."""
FAMILIES = (OURS, "none", "fixed_window", "fixed_delay")
SECONDS = 4.0
SEEDS = 3
VIRTUAL_SEEDS = 5
VIRTUAL_REQUESTS = 4_000
BUDGETS = (2.5, 2.0, 8.0)
"""Deadlines in equal shares: 2.5 times what one takes alone, and 2 and 8 times a full batch."""
NOISE = 0.05
"""Of a curve that was told, not measured: what ONNX Runtime shows on an idle core."""
ON_THE_WAY = 0.002
"""Seconds of a deadline that the worker is not told of: the client's and the socket's part."""
QUEUE_LIMIT = 4096
BURST = 256
BURSTS = 5
ALONE = 40
RESULT = Path("build/bench/batch.json")
_TIMING = re.compile(r"prefill;dur=([0-9.]+).*batch;desc=([0-9]+)")


class Measured(NamedTuple):
    """The engine as a worker serves it."""

    fixed: float
    each: float
    noise: float
    """Of the logarithm of a batch's time, the standard deviation."""
    alone: float
    """Seconds of a request alone, as its client sees it."""
    capacity: float
    """Requests per second in full batches."""

    def demand(self, capacity: float, alone: float) -> Demand:
        full = wide.MAX_BATCH / capacity
        budgets = (BUDGETS[0] * alone, BUDGETS[1] * full, BUDGETS[2] * full)
        classes = tuple(
            Class(name=f"{budget * 1e3:.1f} ms", total_s=budget, surface=Surface.INFER, model=wide.MODEL)
            for budget in budgets
        )
        return Demand(classes=classes, sizes=Ranges(prompt_tokens=(1, 1), output_tokens=(1, 1)))

    @property
    def virtual_capacity(self) -> float:
        return wide.MAX_BATCH / (self.fixed + self.each * wide.MAX_BATCH)


def write(planned: Planned) -> Message:
    assert planned.kind.total_s is not None
    deadline = max(planned.kind.total_s - ON_THE_WAY, 0.001)
    return Message(
        f"/v2/models/{wide.MODEL}/infer", wide.body(planned.seed), (("x-deadline-ms", f"{deadline * 1e3:.1f}"),)
    )


# By the clock.


class Fleet:
    """A worker process per rule, all of one model; a context."""

    def __init__(self, manifest: Path, rules: Mapping[str, str] = RULES) -> None:
        self._scratch = Scratch()
        self._manifest, self._rules = manifest, rules
        self._children: list[Child] = []
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Fleet:
        try:
            for name, rule in self._rules.items():
                command = isochrone(
                    "worker", "serve", "--manifest", str(self._manifest), "--region", "bench", "--batching", rule,
                    "--queue-limit", str(QUEUE_LIMIT),
                )  # fmt: skip
                self._children.append(Child(name.replace(":", "-"), command, self._scratch.path))
            for name, child in zip(self._rules, self._children, strict=True):
                self.ports[name] = urlsplit(child.wait_ready(120).split()[1]).port or 0
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self._children)
        self._scratch.remove()


async def measure(port: int) -> Measured:
    """What the engine takes alone and in full batches, by its own timings and by the clock."""
    loop = asyncio.get_running_loop()
    data = Message(f"/v2/models/{wide.MODEL}/infer", wide.body(0)).encode(f"127.0.0.1:{port}")
    connections = [
        (await loop.create_connection(lambda: Connection(lambda _: None), "127.0.0.1", port))[1] for _ in range(BURST)
    ]
    pairs: list[tuple[int, float]] = []

    async def ask(connection: Connection) -> None:
        reply = await connection.send(data)
        found = _TIMING.search(reply.headers.get("server-timing", ""))
        if reply.status != 200 or found is None:
            raise ChildError(f"the worker answered {reply.status} {bytes(reply.body[:200])!r}")
        pairs.append((int(found[2]), float(found[1]) / 1e3))

    alone, rates = [], []
    for _ in range(ALONE):
        began = time.monotonic()
        await ask(connections[0])
        alone.append(time.monotonic() - began)
    for _ in range(BURSTS):
        began = time.monotonic()
        await asyncio.gather(*map(ask, connections))
        rates.append(BURST / (time.monotonic() - began))
    for connection in connections:
        connection.abort()
    fixed, each, noise = fitted(pairs)
    return Measured(fixed, each, noise, statistics.median(alone), statistics.median(rates))


def fitted(pairs: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """`fixed` and `each` by the medians of every size of batch, and the noise about them."""
    by_size: dict[int, list[float]] = {}
    for items, seconds in pairs:
        by_size.setdefault(items, []).append(seconds)
    sizes = np.array(sorted(by_size), float)
    medians = np.array([statistics.median(by_size[int(items)]) for items in sizes])
    weights = np.sqrt([len(by_size[int(items)]) for items in sizes]) / medians
    design = np.stack([np.ones_like(sizes), sizes], 1) * weights[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, medians * weights, rcond=None)
    off = [np.log(seconds / statistics.median(by_size[items])) for items, seconds in pairs]
    return max(float(fixed), 1e-6), max(float(each), 1e-6), min(float(np.std(off)), 0.5)


def by_the_clock(
    ports: Mapping[str, int], measured: Measured, loads: Sequence[float], seeds: int, seconds: float,
    step: Callable[[], object],
) -> list[dict[str, list[float]]]:  # fmt: skip
    """Goodput of every rule at every load, and what was asked, one value per seed."""
    demand, found = measured.demand(measured.capacity, measured.alone), []
    for load in loads:
        goodput: dict[str, list[float]] = {name: [] for name in (ASKED, *ports)}
        for seed in range(seeds):
            plan = demand.plan(load * measured.capacity, seconds, seed=seed)
            goodput[ASKED].append(len(plan) / seconds)
            names = list(ports)
            for name in names[seed % len(names) :] + names[: seed % len(names)]:
                goodput[name].append(uvloop.run(_goodput(ports[name], plan, seconds)))
                step()
        found.append(goodput)
    return found


async def _goodput(port: int, plan: Sequence[Planned], seconds: float) -> float:
    client = Client("127.0.0.1", port, write=write)
    try:
        return sum(sent.in_deadline for sent in await client.run(plan)) / seconds
    finally:
        client.close()


# In virtual time.


def batching(rule: str) -> dict[str, Any]:
    """A rule of the command line as workers/replay.py takes it."""
    kind, _, ms = rule.partition(":")
    return {"kind": kind} | ({"ms": float(ms)} if ms else {})


def virtually(
    measured: Measured, loads: Sequence[float], seeds: int, requests: int, step: Callable[[], object],
    rules: Mapping[str, str] = RULES,
) -> list[dict[str, list[float]]]:  # fmt: skip
    """As `by_the_clock`."""
    capacity, alone = measured.virtual_capacity, measured.fixed + measured.each
    demand, found = measured.demand(capacity, alone), []
    for load in loads:
        goodput: dict[str, list[float]] = {name: [] for name in (ASKED, *rules)}
        seconds = requests / (load * capacity)
        for seed in range(seeds):
            plan = demand.plan(load * capacity, seconds, seed=seed)
            goodput[ASKED].append(len(plan) / seconds)
            for name, kept in zip(rules, _replayed(measured, plan, list(rules.values()), seed), strict=True):
                goodput[name].append(kept / seconds)
            step()
        found.append(goodput)
    return found


def _replayed(measured: Measured, plan: Sequence[Planned], rules: Sequence[str], seed: int) -> list[int]:
    """Requests of a plan in deadline, as the worker's own queue would serve it by each of the rules."""
    told = {
        "arrivals": [[planned.at, planned.kind.total_s] for planned in plan],
        "fixed": measured.fixed, "each": measured.each, "noise": measured.noise, "max_batch": wide.MAX_BATCH,
        "seed": seed,
    }  # fmt: skip
    plays = json.dumps([told | {"batching": batching(rule)} for rule in rules]).encode()
    done = subprocess.run([sys.executable, "-m", "workers.replay"], input=plays, capture_output=True, check=True)
    return [
        sum(
            end is not None and planned.kind.total_s is not None and end <= planned.at + planned.kind.total_s
            for planned, end in zip(plan, played["finished"], strict=True)
        )
        for played in json.loads(done.stdout)
    ]


# What came of it.


def row(load: float, goodput: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """One load's line: medians over the seeds, of the fixed delays the best here, and how far the seeds lie apart."""
    medians = {name: statistics.median(values) for name, values in goodput.items()}
    best = max((name for name in medians if name.startswith("fixed_delay:")), key=medians.__getitem__)
    said: dict[str, Any] = {"load": load, ASKED: round(medians[ASKED], 1)}
    spread = {}
    for family in FAMILIES:
        name = best if family == "fixed_delay" else family
        said[family] = round(medians[name], 1)
        spread[family] = [round(min(goodput[name]), 1), round(max(goodput[name]), 1)]
    ratios = [ours / theirs for ours, theirs in zip(goodput[OURS], goodput[best], strict=True) if theirs]
    said["fixed_delay_ms"] = float(best.partition(":")[2])
    said["ratio_fixed_delay"] = round(statistics.median(ratios), 3) if ratios else None
    return said | {"min_max": spread}


def table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    made = Table(
        title=title, title_justify="left", caption="in deadline per second; in brackets the share of all asked"
    )
    for name in ("load", ASKED, *FAMILIES, "best delay"):
        made.add_column(name.replace("_", " "), justify="right")
    for each in rows:
        asked = each[ASKED]
        figures = [f"{each[family]:.0f} ({each[family] / asked:.0%})" for family in FAMILIES]
        made.add_row(f"{each['load']:g}", f"{asked:.0f}", *figures, f"{each['fixed_delay_ms']:g} ms")
    return made


def curve(told: str) -> Measured:
    """`FIXED,EACH` in milliseconds. Raises BadParameter."""
    try:
        fixed, each = (float(part) / 1e3 for part in told.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{told!r}: give FIXED,EACH in milliseconds", param_hint="--curve") from error
    if fixed <= 0 or each <= 0:
        raise click.BadParameter("both are above 0", param_hint="--curve")
    return Measured(fixed, each, NOISE, fixed + each, wide.MAX_BATCH / (fixed + each * wide.MAX_BATCH))


def run_by_the_clock(
    loads: Sequence[float], seeds: int, seconds: float
) -> tuple[Measured, list[dict[str, list[float]]]]:
    manifest = wide.build(Path("build/bench/wide"))
    with Fleet(manifest) as fleet, report.progress() as bar:
        task = bar.add_task("by the clock", total=len(loads) * seeds * len(RULES))
        measured = uvloop.run(measure(fleet.ports["fixed_delay:0"]))
        return measured, by_the_clock(fleet.ports, measured, loads, seeds, seconds, lambda: bar.advance(task))


def run_virtually(measured: Measured, loads: Sequence[float], seeds: int) -> list[dict[str, list[float]]]:
    with report.progress() as bar:
        task = bar.add_task("in virtual time", total=len(loads) * seeds)
        return virtually(measured, loads, seeds, VIRTUAL_REQUESTS, lambda: bar.advance(task))


@click.command()
@click.option("--seconds", type=click.FloatRange(0.5), default=SECONDS, show_default=True, help="Of each run.")
@click.option("--seeds", type=click.IntRange(1), default=SEEDS, show_default=True, help="Runs by the clock.")
@click.option("--virtual-seeds", type=click.IntRange(1), default=VIRTUAL_SEEDS, show_default=True, help="And without.")
@click.option(
    "--loads", default=",".join(map(str, LOADS)), show_default=True, help="Of the throughput of full batches."
)
@click.option("--curve", "told", default="", metavar="FIXED,EACH", help="Of a batch, in ms: virtual time alone.")
def main(seconds: float, seeds: int, virtual_seeds: int, loads: str, told: str) -> None:
    """Goodput by the rule that forms batches, on one engine."""
    wanted = [float(load) for load in loads.split(",")]
    try:
        measured, real = (curve(told), None) if told else run_by_the_clock(wanted, seeds, seconds)
    except ChildError as error:
        raise click.ClickException(str(error)) from error
    virtual = run_virtually(measured, wanted, virtual_seeds)
    virtual_rows = [row(load, goodput) for load, goodput in zip(wanted, virtual, strict=True)]
    rows = virtual_rows if real is None else [row(load, goodput) for load, goodput in zip(wanted, real, strict=True)]
    result = {
        "loads": rows,
        "source": "virtual" if real is None else "clock",
        "virtual": virtual_rows,
        "engine": {"model": wide.MODEL, "width": wide.WIDTH, "layers": wide.LAYERS, "max_batch": wide.MAX_BATCH},
        "curve": {"fixed_ms": measured.fixed * 1e3, "each_ms": measured.each * 1e3, "noise": measured.noise},
        "capacity_per_s": {"clock": measured.capacity, "virtual": measured.virtual_capacity},
        "alone_ms": measured.alone * 1e3,
        "fixed_window_ms": WINDOW,
        "seconds": seconds,
        "seeds": {"clock": 0 if real is None else seeds, "virtual": virtual_seeds},
        "host": {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    screen = report.screen()
    if real is not None:
        screen.print(table(rows, f"by the clock, {seeds} seeds of {seconds:g} s"))
    screen.print(table(virtual_rows, f"in virtual time, {virtual_seeds} seeds"))


if __name__ == "__main__":
    main()
