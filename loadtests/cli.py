"""The commands `isochrone demo` and `isochrone load`: arguments in, exit status out."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

import click
import msgspec

from loadtests import demo as demonstration
from loadtests import report, scenario, traces
from loadtests.arrivals import Arrivals, Process
from loadtests.live.client import Client
from loadtests.processes import ChildError
from loadtests.rows import FileError
from loadtests.simulator import definitions
from loadtests.sizes import Ranges
from loadtests.workload import NOWHERE, Class, Demand, Planned, Surface, TraceRate

PORT = click.IntRange(0, 65535)
POSITIVE = click.FloatRange(min=0, min_open=True)
RATE = 20.0
"""A second, of `isochrone load`, unless something says otherwise."""
SIZES = Ranges(prompt_tokens=(8, 24), output_tokens=(8, 24))
"""Of `isochrone load`: short enough for the bundled models on a CPU."""


@click.command()
@click.option("--once", is_flag=True, help="Send a mixed workload under three policies, print the comparison, end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: the last line of output is one JSON object.")
@click.option("--gateways", type=click.IntRange(1), default=1, show_default=True, help="How many, one per region.")
@click.option("--redis", metavar="URL", help="Use this registry instead of starting one.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="Of the first gateway; 0 takes a free one.")
@click.option("--control-port", type=PORT, default=8081, show_default=True, help="Of its control plane.")
@click.option("--requests", type=click.IntRange(1), default=64, show_default=True, help="With --once: how many.")
@click.option("--scenario", "path", type=click.Path(path_type=Path), help="Another world than the shipped one.")
def demo(
    once: bool, as_json: bool, gateways: int, redis: str | None, port: int, control_port: int, requests: int,
    path: Path | None,
) -> None:  # fmt: skip
    """Start a whole fleet on this machine: registry, three regions of workers behind a WAN, gateways."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # a shell's background job inherits SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        world = scenario.load(path)
        if gateways > len(world.gateways):
            raise click.BadParameter(
                f"the scenario has {len(world.gateways)} regions for them", param_hint="--gateways"
            )
        if as_json and not once:
            raise click.UsageError("--json belongs to --once: the demo itself prints a live table")
        wanted = demonstration.Wanted(
            scenario=world, gateways=gateways, redis=redis, port=port, control_port=control_port,
            once=once, json=as_json, requests=requests,
        )  # fmt: skip
        impossible = wanted.impossible_ports()
        if impossible:
            raise click.BadParameter(impossible, param_hint="--port and --control-port")
        sys.exit(demonstration.run(wanted))
    except scenario.ScenarioError as error:
        _fail(error, 2)
    except (ChildError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


@click.command()
@click.argument("url")
@click.option("--rate", type=POSITIVE, help="Per second: 20, or a trace's own, unless given.")
@click.option("--seconds", type=POSITIVE, default=10.0, show_default=True)
@click.option("--model", help="tinychat, or a scenario's own, unless given.")
@click.option("--surface", type=click.Choice([surface.value for surface in Surface]), default="chat", show_default=True)
@click.option("--deadline-ms", type=POSITIVE, help="None unless given.")
@click.option("--arrivals", type=click.Choice(["poisson", "even"]), default="poisson", show_default=True)
@click.option("--trace", metavar="FILE", help="Requests as recorded: their sizes, and their times if it has any.")
@click.option("--scenario", "world", metavar="NAME", help="The demand of a simulated world, instead of one kind.")
@click.option("--seed", default=1, show_default=True)
@click.option("--key", envvar="ISOCHRONE_API_KEY", default="", help="API key; or the variable ISOCHRONE_API_KEY.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def load(
    url: str, rate: float | None, seconds: float, model: str | None, surface: str, deadline_ms: float | None,
    arrivals: str, trace: str | None, world: str | None, seed: int, key: str, as_json: bool,
) -> None:  # fmt: skip
    """Send requests to the gateway at URL at a fixed RATE, whatever becomes of them, and report what came back."""
    host, port = _address(url)
    kind = Class(
        name=surface, surface=Surface(surface), model=model or "tinychat", total_s=deadline_ms and deadline_ms / 1e3
    )
    demand = Demand(classes=(kind,), sizes=SIZES, arrivals=Arrivals(process=Process(arrivals)))
    try:
        plan = _plan(demand, world, model, trace, rate, seconds, seed)
    except FileError as error:
        _fail(error, 2)
    if not plan:
        raise click.BadParameter(f"no request falls into {seconds:g} s at this rate", param_hint="--rate")
    sent = asyncio.run(_send(host, port, key, plan))
    summary = report.summarise(sent)
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
    else:
        label = " ".join(filter(None, [world, trace and Path(trace).name])) or f"{surface} {kind.model}"
        report.screen().print(report.side_by_side({label: summary}, "requests for"))
        for text, count in sorted(report.errors(sent).items()):
            click.echo(f"{count} x {text}")
    sys.exit(0 if summary.ok == summary.requests else 1)


def _plan(
    demand: Demand,
    world: str | None,
    model: str | None,
    trace: str | None,
    rate: float | None,
    seconds: float,
    seed: int,
) -> list[Planned]:
    """What a simulator would be given, for the wall clock. Raises FileError."""
    origins = NOWHERE
    if world is not None:
        chosen = definitions.read(world).cases[0].world
        demand, origins = chosen.demand, chosen.origins()
        if model is not None:
            classes = tuple(msgspec.structs.replace(kind, model=model) for kind in demand.classes)
            demand = msgspec.structs.replace(demand, classes=classes)
    if trace is not None:
        timed = traces.load(trace).at is not None
        speed = TraceRate.OWN if rate is None and timed else TraceRate.WORLD
        demand = msgspec.structs.replace(demand, trace=trace, trace_rate=speed)
    return demand.plan(rate or RATE, seconds, origins, seed)


async def _send(host: str, port: int, key: str, plan: list[Planned]) -> list[report.Sent]:
    client = Client(host, port, key=key)
    try:
        return await client.run(plan)
    finally:
        client.close()


def _address(url: str) -> tuple[str, int]:
    """Host and port of a gateway's URL; a path is no part of it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:  # a port that is none
        host = None
    if host is None or parts.scheme != "http" or not port:
        raise click.BadParameter(f"{url!r} is none: http://HOST:PORT was expected", param_hint="URL")
    return host, port


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: through the code that ends the children."""
    raise KeyboardInterrupt


def _fail(error: Exception, status: int) -> NoReturn:
    click.echo(f"isochrone: {error}", err=True)
    sys.exit(status)
