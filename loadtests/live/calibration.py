"""Promises put to the proof (`make calibration`): is a predicted probability true, and does a burst herd?

Real gateways, registry, probes and WAN proxy; emulated workers. The figures are the gateways' own, read from /metrics
when all is over; the herd index is measured at the workers, by the simulator's own gauge, while the burst lasts.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from loadtests import report
from loadtests.embedded import Gateway, fetch
from loadtests.live.crowd import Member
from loadtests.live.trial import SETTLE_S, Trial, members, send
from loadtests.processes import ChildError
from loadtests.report import Sent
from loadtests.rows import FileError
from loadtests.simulator import definitions, runs
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import World, WorldError
from policies.reliability import EDGES, Bin, Reliability

HERD = 1.5
"""Times what a node can do in one heartbeat that a burst may bring to it."""
ERROR = 0.03
"""Expected calibration error that passes: what a probability is off by, in the mean."""
LEAST = 20_000
"""Predictions below which a diagram is called a trial run."""
AFTER_S = 2.0
"""After a burst its last requests are on their way yet."""
OUTPUT = Path("build/bench/calibration.json")

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Name and labels of a sample -> its value, added up over gateways."""


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the attempts under one kind of promise."""

    status: str
    probability: float
    sent: int
    missed: float
    """Share."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the answers' time, in the mean. Seconds."""

    name: str
    predicted: float
    actual: float


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What `build/bench/calibration.json` holds."""

    world: str
    gateways: int
    heartbeat_s: float
    requests: int
    answered: float
    """Share of the requests."""
    in_deadline: float
    """Share of those that had one and more than that: by the clients' clocks."""
    predictions: int
    calibration_error: float
    bins: tuple[Bin, ...]
    promises: tuple[Promise, ...]
    parts: tuple[Part, ...]
    herd_index: float
    herds: dict[str, float]
    """By worker."""
    passes: bool


# Running.


def run(world: World, policy: str, seed: int, say: Callable[[str], None]) -> Proof:
    """Send the plan of `seed`. Raises ChildError."""
    plan = runs.planned(world, seed)
    simulation = Simulation(world, CONTENDERS[policy], seed, plan)
    simulation.run()  # for its weather
    noise = [call.noise for call in sorted(simulation.ledger.calls, key=lambda call: call.number)]
    mean_output = sum(planned.output_tokens for planned in plan) / len(plan)
    crowd = members(simulation, mean_output)
    with Trial(world, say) as trial:
        trial.start_redis()
        trial.start_crowd(crowd)
        route = {"match": {"model": "*"}, "policy": policy, "output_tokens": mean_output}
        gateways = [
            trial.start_gateway(region, routes=[route], probes={"interval_s": world.control.probe_s})
            for region in trial.scenario.gateways
        ]
        for gateway in gateways:
            trial.await_workers(gateway)
        time.sleep(SETTLE_S)
        say(f"sending {len(plan)} requests in {world.seconds:.0f} s")

        async def both() -> tuple[list[Sent], dict[str, float]]:
            return await asyncio.gather(send(gateways, plan, noise), _watch(world, crowd))

        sent, herds = asyncio.run(both())
        pages = [_page(gateway) for gateway in gateways]
    return judge(world, sent, pages, herds)


async def _watch(world: World, crowd: Sequence[Member]) -> dict[str, float]:
    """Measure the herds of the first burst, at every worker."""
    burst = world.demand.bursts[0]
    width = max(world.control.heartbeat_s, 1.0)
    ports = {member.worker.id: member.port for member in crowd}
    await asyncio.sleep(burst.at)
    for port in ports.values():
        await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/control", {"herd_s": width})
    await asyncio.sleep(burst.lasts + AFTER_S)
    found = {}
    for name, port in ports.items():
        found[name] = (await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/control/herd"))["worst"]
    return found


def _page(gateway: Gateway) -> str:
    with urlopen(f"{gateway.control}/metrics", timeout=10.0) as answer:  # noqa: S310 (ours)
        return str(answer.read().decode())


# Judging.


def judge(world: World, sent: Sequence[Sent], pages: Iterable[str], herds: Mapping[str, float]) -> Proof:
    """Put together what clients, gateways and workers say."""
    samples = read(pages)
    counted = Reliability()
    counted.merge(_bins(samples))
    worst = max(herds.values())
    return Proof(
        world=world.name,
        gateways=len(world.gateways),
        heartbeat_s=world.control.heartbeat_s,
        requests=len(sent),
        answered=sum(one.ok for one in sent) / len(sent),
        in_deadline=sum(one.in_deadline for one in sent) / len(sent),
        predictions=counted.count,
        calibration_error=counted.error,
        bins=counted.bins(),
        promises=tuple(_promises(samples)),
        parts=tuple(_parts(samples)),
        herd_index=worst,
        herds=dict(herds),
        passes=worst <= HERD and counted.error <= ERROR and counted.count >= LEAST,
    )


def read(pages: Iterable[str]) -> Samples:
    """The samples of several metrics pages, added up."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = defaultdict(float)
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] += sample.value
    return found


def _of(samples: Samples, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {tuple(sorted(labels)): value for (called, labels), value in samples.items() if called == name}


def _bins(samples: Samples) -> list[Bin]:
    limits = (0.0, *EDGES, 1.0)
    bins = []
    for low, high in itertools.pairwise(limits):
        labels = frozenset({("probability", f"{low:g}-{high:g}")})
        count, predicted, kept = (
            samples[f"isochrone_foretold_{what}_total", labels] for what in ("attempts", "probability", "kept")
        )
        each = max(1.0, count)
        bins.append(Bin(low=low, high=high, predicted=predicted / each, kept=kept / each, count=round(count)))
    return bins


def _promises(samples: Samples) -> Iterable[Promise]:
    sent: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    for labels, value in _of(samples, "isochrone_promises_total").items():
        told = dict(labels)
        kind = told["status"], told["probability"]
        sent[kind] += round(value)
        missed[kind] += round(value) if told["kept"] == "no" else 0
    for kind, count in sorted(sent.items()):
        yield Promise(status=kind[0], probability=float(kind[1]), sent=count, missed=missed[kind] / max(1, count))


def _parts(samples: Samples) -> Iterable[Part]:
    for labels, total in _of(samples, "isochrone_predicted_seconds_sum").items():
        key = frozenset(labels)
        count = max(1.0, samples["isochrone_predicted_seconds_count", key])
        actual = samples["isochrone_actual_seconds_sum", key] / count
        yield Part(name=dict(labels)["component"], predicted=total / count, actual=actual)


# For people.


def diagram(proof: Proof) -> Table:
    """The reliability diagram, a line per bin."""
    made = Table(title=f"{proof.world}: {proof.predictions} predictions", title_justify="left")
    for name in ("predicted between", "mean", "kept", "off by", "attempts"):
        made.add_column(name, justify="right")
    for one in proof.bins:
        if one.count:
            made.add_row(
                one.label, f"{one.predicted:.3f}", f"{one.kept:.3f}", f"{one.kept - one.predicted:+.3f}", str(one.count)
            )
    return made


def figures(proof: Proof) -> list[str]:
    """The rest of it, a sentence each."""
    told = [
        f"{proof.requests} requests: {proof.answered:.2%} answered, {proof.in_deadline:.2%} in deadline",
        f"expected calibration error {proof.calibration_error:.4f} (at most {ERROR:g} passes)",
        f"herd index of the burst {proof.herd_index:.2f} with {proof.gateways} gateways and heartbeats of "
        f"{proof.heartbeat_s:g} s (at most {HERD:g} passes)",
    ]
    told += [
        f"{one.status.replace('_', ' ')} at {one.probability:g}: {one.sent} sent, {one.missed:.2%} missed"
        for one in proof.promises
    ]
    return told + [f"{one.name}: {one.predicted:.4f} s predicted, {one.actual:.4f} s actual" for one in proof.parts]


@click.command()
@click.argument("source", default="calibration")
@click.option("--policy", default="cheapest_in_deadline", show_default=True, help="A preset of the gateway.")
@click.option("--seed", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(source: str, policy: str, seed: int, output: Path) -> None:
    """Run the world SOURCE in real processes. Exit status 0 when its promises hold and its burst does not herd."""
    try:
        world = definitions.read(source).cases[0].world
        if not world.demand.bursts:
            raise WorldError(f"{source}: demand.bursts: a burst is what a herd is measured by; give one")
        proof = run(world, policy, seed, lambda line: click.echo(f"  {line}", err=True))
    except (FileError, WorldError, ChildError, OSError) as error:
        raise click.ClickException(str(error)) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(proof)) + b"\n")
    report.screen().print(diagram(proof))
    for line in figures(proof):
        click.echo(line)
    click.echo(f"{'It holds' if proof.passes else 'It does not hold'}; written to {output}.")
    sys.exit(0 if proof.passes else 1)


if __name__ == "__main__":
    main()
