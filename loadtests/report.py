"""What came of a run: one `Sent` per request, a `Summary` per run, tables for people, JSON for machines.

Times are seconds, money US dollars; what nobody said is None, never zero. A request is in its deadline when it
succeeded and its first and last byte came in time; one without a deadline only has to succeed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

WIDTH = 140
"""Columns the widest table of the demo needs."""
PIPE_WIDTH = 10_000
"""A file has no columns: wide enough for whatever fleet; tables take only what they need."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its sender saw it."""

    number: int
    kind: str
    ok: bool
    took: float
    """From the moment it was meant to be sent to its last byte."""
    first_byte: float | None = None
    deadline: float | None = None
    first_deadline: float | None = None
    """Of the first byte."""
    status: int = 0
    error: str = ""
    request_id: str = ""
    worker: str = ""
    """Who answered: the reply's `x-route-node`; empty when it does not say."""
    region: str = ""
    variant: str = ""
    predicted: float | None = None
    cost: float | None = None
    """None when nobody said what it cost."""
    attempts: int = 1

    @property
    def in_deadline(self) -> bool:
        if self.first_deadline is not None and (self.first_byte is None or self.first_byte > self.first_deadline):
            return False
        return self.ok and (self.deadline is None or self.took <= self.deadline)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in one object."""

    requests: int
    ok: int
    in_deadline: int
    cost_usd: float | None
    """Of those requests whose cost is known; None when it is of none."""
    costed: int = 0
    """How many those are."""
    fleet_usd: float | None = None
    """What the hours of the whole fleet cost while it lasted, used or not; None when nobody said."""
    by_node: dict[str, int]
    """Requests by the worker that answered."""
    p50_s: float
    p99_s: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summarise(sent: Sequence[Sent], fleet_usd: float | None = None) -> Summary:
    took = [one.took for one in sent if one.ok]
    costs = [one.cost for one in sent if one.cost is not None]
    return Summary(
        requests=len(sent),
        ok=sum(one.ok for one in sent),
        in_deadline=sum(one.in_deadline for one in sent),
        cost_usd=sum(costs) if costs else None,
        costed=len(costs),
        fleet_usd=fleet_usd,
        by_node=dict(sorted(Counter(one.worker for one in sent if one.worker).items())),
        p50_s=percentile(took, 0.50),
        p99_s=percentile(took, 0.99),
    )


def errors(sent: Sequence[Sent]) -> dict[str, int]:
    """How often each error came."""
    return dict(Counter(one.error or str(one.status) for one in sent if not one.ok))


def screen(*, stderr: bool = False) -> Console:
    """Where finished tables go: in a narrow terminal long lines are better than cut words; a pipe has no width."""
    console = Console(stderr=stderr)
    console.width = max(console.width, WIDTH) if console.is_terminal else PIPE_WIDTH
    return console


def progress() -> Progress:
    """A bar for what takes longer than two seconds; only on a terminal, and gone at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None or not math.isfinite(seconds) else f"{seconds * 1e3:.0f} ms"


def usd_a_million(usd: float | None, requests: int = 1) -> str:
    """US dollars for a million such requests: a single one costs too little to read."""
    return "-" if usd is None else f"{usd / max(1, requests) * 1e6:.2f}"


def requests_table(sent: Sequence[Sent], title: str) -> Table:
    """One row per request, in the order they were sent."""
    table = Table(title=title, title_justify="left")
    for column in ("#", "request", "worker", "region", "variant"):
        table.add_column(column, no_wrap=True)
    for column in ("deadline", "predicted", "real", "$ a million"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("held", no_wrap=True)
    for one in sent:
        held = "-" if one.ok and one.deadline is None else "yes" if one.in_deadline else "[red]no[/red]"
        if one.worker and one.error:
            held = f"[red]{one.error}[/red]"
        table.add_row(
            str(one.number),
            one.kind,
            one.worker or ("-" if one.ok else f"[red]{one.error or one.status}[/red]"),
            one.region or "-",
            one.variant or "-",
            milliseconds(one.deadline) if one.deadline is not None else "none",
            milliseconds(one.predicted),
            milliseconds(one.took),
            usd_a_million(one.cost),
            held,
        )
    return table


def side_by_side(runs: Mapping[str, Summary], what: str = "policy", title: str | None = None) -> Table:
    """A row per run: several policies under the same workload, say. Money is the marginal bill per request and, where
    it is known, the bill for the fleet's hours per request in deadline."""
    hours = any(run.fleet_usd is not None for run in runs.values())
    table = Table(title=title, title_justify="left")
    table.add_column(what, no_wrap=True)
    bills = ("$ a million", "fleet $ a million") if hours else ("$ a million",)
    for column in ("requests", "answered", "in deadline", *bills, "p50", "p99"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("workers")
    for name, run in runs.items():
        table.add_row(
            name,
            str(run.requests),
            str(run.ok),
            str(run.in_deadline),
            usd_a_million(run.cost_usd, run.costed),
            *((usd_a_million(run.fleet_usd, run.in_deadline),) if hours else ()),
            milliseconds(run.p50_s),
            milliseconds(run.p99_s),
            " ".join(f"{worker}:{count}" for worker, count in run.by_node.items()) or "-",
        )
    return table


def comparison(ours: Summary, others: Mapping[str, Summary]) -> str:
    """The last line of `demo --once --json`."""
    result: dict[str, object] = {
        "requests": ours.requests,
        "ok": ours.ok,
        "in_deadline": ours.in_deadline,
        "cost_usd": ours.cost_usd,
        "by_node": ours.by_node,
    }
    for name, run in others.items():
        result[name] = {"in_deadline": run.in_deadline, "cost_usd": run.cost_usd}
    return msgspec.json.encode(result).decode()
