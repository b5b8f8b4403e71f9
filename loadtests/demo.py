"""`isochrone demo`: the embedded fleet, where to point a client, and a live table of its workers.

It only starts and watches processes; everything it shows it asks the gateways for. A worker, the registry or the
network that dies is shown and the rest goes on; the demo ends with its last gateway. `--once` runs the showcase instead
of waiting. However it ends, the children end with it.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from loadtests import report, showcase
from loadtests.embedded import Embedded, Gateway, Ports, nodes
from loadtests.processes import Child, ChildError, refuse_taken
from loadtests.report import Sent
from loadtests.scenario import Scenario, WorkerPlan
from policies.reason import TABLE, Reason

REFRESH_SECONDS: Final = 0.5
PORTS_APART: Final = 2
"""Each further gateway listens this much higher, data and control: 8080/8081, 8082/8083, ..."""
LATE: Final = TABLE[Reason.DEADLINE_EXCEEDED].code
MAX_PORT: Final = 65535


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asked for."""

    scenario: Scenario
    gateways: int = 1
    redis: str | None = None
    port: int = 8080
    control_port: int = 8081
    once: bool = False
    json: bool = False
    requests: int = 64

    def ports(self) -> list[Ports]:
        """One pair per gateway; 0 stays 0, a free port."""
        steps = (PORTS_APART * number for number in range(self.gateways))
        return [Ports(self.port and self.port + step, self.control_port and self.control_port + step) for step in steps]

    def impossible_ports(self) -> str:
        """Why the gateways cannot have their ports; empty when they can."""
        wanted = [port for pair in self.ports() for port in pair if port]
        if max(wanted, default=0) > MAX_PORT:
            return f"{self.gateways} gateways would need port {max(wanted)}, and the last is {MAX_PORT}"
        twice = next((port for port in wanted if wanted.count(port) > 1), None)
        return "" if twice is None else f"port {twice} would be used twice; each gateway takes the next but one"


def run(wanted: Wanted) -> int:
    """Start the fleet, then show it until interrupted, or once. Raises ChildError."""
    for ports in wanted.ports():
        for port, option in ((ports.data, "--port"), (ports.control, "--control-port")):
            if port:
                refuse_taken("127.0.0.1", port, option)
    console = Console(stderr=wanted.json)
    began = time.monotonic()
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    with Embedded(wanted.scenario, redis=wanted.redis, say=say) as fleet:
        fleet.start(wanted.ports())
        console.print(f"ready in {time.monotonic() - began:.1f} s\n")
        return show_once(fleet, wanted, console) if wanted.once else show_until_interrupted(fleet, console)


def show_until_interrupted(fleet: Embedded, console: Console) -> int:
    """Print where to point a client, then keep a table of the workers up to date. Raises ChildError."""
    console.print(invitation(fleet.gateways), faults(standings(fleet)), sep="\n", highlight=False, soft_wrap=True)
    told: set[str] = set()
    try:
        with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
            while True:
                for line in deaths(fleet, told):
                    console.print(line, highlight=False, soft_wrap=True)
                require_a_gateway(fleet)
                tables = current_tables(fleet)
                if tables and console.is_terminal:
                    live.update(Group(*tables), refresh=True)
                time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        console.print("\nending every process", highlight=False)
        return 0


class Standing(NamedTuple):
    """A child process as it stands."""

    name: str
    pid: int
    fate: str
    """How it ended; empty while it runs."""

    def __str__(self) -> str:
        return f"{self.name} {self.fate or self.pid}"


def standings(fleet: Embedded) -> list[Standing]:
    return [Standing(child.name, child.pid, child.fate) for child in fleet.children]


def deaths(fleet: Embedded, told: set[str]) -> Iterable[str]:
    """A line for every child that died since the last time, and what that means."""
    for child in fleet.children:
        if not child.alive and child.name not in told:
            told.add(child.name)
            yield f"{child.obituary()} (it was process {child.pid}): {consequence(child, fleet)}"


def consequence(child: Child, fleet: Embedded) -> str:
    """What the rest of the fleet does without it."""
    if child.name in fleet.workers:
        return "its requests go to other workers"
    meanings = {
        "redis": "gateways serve from what they last knew, and drains and new workers wait for its return",
        "wan": "no worker can be reached, so every request is refused",
    }
    return meanings.get(child.name, "clients must use another gateway")


def require_a_gateway(fleet: Embedded) -> None:
    """Raise ChildError when the last one has died."""
    if not any(gateway.child.alive for gateway in fleet.gateways):
        raise ChildError("; ".join(gateway.child.obituary() for gateway in fleet.gateways))


def current_tables(fleet: Embedded) -> list[RenderableType]:
    """A table per gateway that answers, and the processes beside the workers."""
    running = standings(fleet)
    tables: list[RenderableType] = []
    for gateway in fleet.gateways:
        try:
            tables.append(workers_table(gateway.region, nodes(gateway), fleet.scenario.workers, running))
        except OSError:  # dead, or too busy to answer: the next look will show which
            continue
    others = [Text(str(one), "red" if one.fate else "") for one in running if one.name not in fleet.workers]
    return [*tables, Text("other processes: ").append_text(Text(", ").join(others))]


def show_once(fleet: Embedded, wanted: Wanted, console: Console) -> int:
    """Run the showcase under each policy on this fleet; 0 when every request was answered, or ended by its deadline."""
    runs: dict[str, list[Sent]] = {}
    home = fleet.gateways[0]
    with Progress(
        TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as progress:
        for policy in (showcase.OURS, *showcase.OTHERS):
            bar = progress.add_task(policy, total=wanted.requests)
            gateway = home if policy == showcase.OURS else fleet.start_gateway(home.region, policy=policy)
            fleet.await_workers(gateway)
            runs[policy] = asyncio.run(
                showcase.showcase(gateway, wanted.requests, lambda bar=bar: progress.advance(bar))  # type: ignore[misc]
            )
            if gateway is not home:
                fleet.stop_gateway(gateway)
            fleet.check()
    fleet_usd = showcase.lasts(wanted.requests) / 3600 * sum(plan.usd_per_hour for plan in fleet.scenario.workers)
    summaries = {policy: report.summarise(sent, fleet_usd) for policy, sent in runs.items()}
    screen = report.screen(stderr=wanted.json)
    screen.print(report.requests_table(runs[showcase.OURS], f"{showcase.OURS}, entering at {home.region}"))
    screen.print(report.side_by_side(summaries, title="the same requests under each policy"))
    screen.print(verdict(summaries), highlight=False)
    if wanted.json:
        others = {policy: summaries[policy] for policy in showcase.OTHERS}
        print(report.comparison(summaries[showcase.OURS], others), file=sys.stdout)
    return 0 if all(one.ok or one.error == LATE for sent in runs.values() for one in sent) else 1


def verdict(runs: Mapping[str, report.Summary]) -> str:
    """The comparison in two sentences, whichever way it came out."""
    ours, nearest, cheapest = (runs[policy] for policy in (showcase.OURS, *showcase.OTHERS))
    missed, others_missed = ours.requests - ours.in_deadline, cheapest.requests - cheapest.in_deadline
    missing = f"{showcase.OURS} missed {missed} deadlines where lowest_cost missed {others_missed}"
    if ours.cost_usd is None or not nearest.cost_usd:
        return f"{missing}; what they cost is not known."
    return f"{missing}, and cost {ours.cost_usd / nearest.cost_usd:.0%} of what nearest cost."


def invitation(gateways: Sequence[Gateway]) -> str:
    """How to send the first request."""
    url, control = gateways[0].url, gateways[0].control
    lines = ["Point any OpenAI client here:\n"]
    lines += [f"    base_url = {gateway.url}/v1      (enters in {gateway.region})" for gateway in gateways]
    lines += [
        "\nFor example:\n",
        f"    curl -i {url}/v1/chat/completions -H 'content-type: application/json' -H 'x-deadline-ms: 100' \\",
        """         -d '{"model": "tinychat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}'""",
        f"\nWhy it went where it went:  isochrone explain --control {control} REQUEST_ID   (the reply's x-request-id)",
    ]
    return "\n".join(lines)


def faults(running: Sequence[Standing]) -> str:
    """What to break, and how it ends."""
    named = {one.name: f"kill -9 {one.pid}   ({one.name})" for one in running}
    examples = [named[name] for name in ("asia-b", "redis") if name in named]
    lines = [f"Take something away and send again:  {'  or  '.join(examples)}"] if examples else []
    return "\n".join([*lines, "Ctrl-C ends everything.\n"])


def workers_table(
    region: str, rows: Sequence[Mapping[str, Any]], plans: Sequence[WorkerPlan], running: Sequence[Standing]
) -> Table:
    """The workers as one gateway sees them, the nearest first; the nodes of one worker share its row.

    A worker of the scenario that the gateway does not know (any more) keeps its row, at the end. What a narrow terminal
    has little room for is what they serve. "load" is requests waiting + running.
    """
    table = Table(title=f"the fleet, seen from {region}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("worker", "pid", "state", "region"):
        table.add_column(column, no_wrap=True)
    for column in ("$/hour", "distance", "wait", "load"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("serves")
    processes = {one.name: one for one in running}
    by_worker: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_worker.setdefault(row["worker"], []).append(row)
    for worker, its in sorted(by_worker.items(), key=lambda pair: (_or_last(pair[1][0]["rtt_ms"]), pair[0])):
        first = its[0]
        serves = _serves((row["model"] for row in its), (row["variant"] for row in its))
        load = f"{_cell(first['waiting'], '{}')}+{_cell(first['running'], '{}')}"
        figures = (
            _cell(first["price"], "{:.2f}"),
            _cell(first["rtt_ms"], "{:.1f} ms"),
            _cell(first["wait_ms"], "{:.0f} ms"),
        )
        state, pid = _state(first["state"], processes.get(worker))
        table.add_row(worker, pid, state, first["region"], *figures, load, serves)
    for plan in plans:
        if plan.id not in by_worker:
            state, pid = _state("unknown here", processes.get(plan.id))
            price = _cell(plan.usd_per_hour, "{:.2f}")
            serves = _serves(plan.models, plan.variants)
            table.add_row(plan.id, pid, state, plan.region, price, "-", "-", "-", serves)
    return table


def _serves(models: Iterable[str], variants: Iterable[str]) -> str:
    return f"{' '.join(sorted(set(models)))} ({' '.join(sorted(set(variants)))})"


def _state(state: str, process: Standing | None) -> tuple[Text, str]:
    """The gateway's word for a worker and its process id; how it ended, once it has."""
    if process is None:
        return Text(state), "-"
    if process.fate:
        return Text(process.fate.replace("ended by", "dead:").replace("ended with", "dead:"), "red"), "-"
    return Text(state, "" if state == "serving" else "yellow"), str(process.pid)


def _or_last(milliseconds: float | None) -> float:
    return math.inf if milliseconds is None else milliseconds


def _cell(value: object, form: str) -> str:
    return "-" if value is None else form.format(value)
