"""The control plane's answers as a person reads them: tables, and the counterfactuals in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

STATES = {"serving": "green", "probing": "yellow", "draining": "yellow", "ejected": "red", "gone": "red"}
PARTS = (("network", "network"), ("queue", "queue"), ("prefill", "prefill"), ("decode", "decode"), ("total", "total"))


def nodes(rows: Sequence[Row]) -> RenderableType:
    """One line per node."""
    if not rows:
        return Text("No nodes are known.")
    table = Table(box=None, header_style="bold")
    for name in ("node", "region", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("quality", "price", "round trip", "wait", "waiting", "running", "sent"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["node"], row["region"], Text(row["state"], STATES.get(row["state"], "")), f"{row['quality']:.3f}",
            _price(row), _ms(row["rtt_ms"]), _ms(row["wait_ms"]), _count(row["waiting"]), _count(row["running"]),
            str(row["sent"]),
        )  # fmt: skip
    return table


def explained(told: Row) -> RenderableType:
    """What would be decided: every candidate, cheapest first, the verdict, and what else could have been."""
    table = Table(box=None, header_style="bold")
    table.add_column("node", no_wrap=True)
    table.add_column("region", no_wrap=True)
    for name in ("network", "wait", "prefill", "decode", "total", "spread", "$ a million", last_column(told)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in told["candidates"]:
        chosen = row["verdict"] == "chosen"
        table.add_row(
            row["node"], row["region"], _s(row["network_s"]), _s(row["wait_s"]), _s(row["prefill_s"]),
            _s(row["decode_s"]), _s(row["mean_s"]), _s(row["spread_s"]), _usd(row["cost_usd"]), _sure(row),
            row["verdict"], style="bold green" if chosen else None,
        )  # fmt: skip
    return Group(Text(heading(told), "bold"), table, Text(counterfactuals(told)))


def last_column(told: Row) -> str:
    """How surely a node is in time; without a deadline, the time it will hold."""
    return "in time" if told["budget_s"] is not None else f"{told['probability']:.0%} within"


def heading(told: Row) -> str:
    """The decision in one sentence."""
    wanted = "no deadline"
    if told["budget_s"] is not None:
        wanted = f"{told['budget_s'] * 1e3:.0f} ms, with {told['probability']:.0%} probability"
    if told["first_token_budget_s"] is not None:
        wanted += f"; first token in {told['first_token_budget_s'] * 1e3:.0f} ms"
    model, policy = told["model"], told["policy"]
    if told["chosen"] is None:
        detail = f": {told['detail']}" if told["detail"] else ""
        return f"{model} ({wanted}) under {policy}: refused, {told['decision']}{detail}"
    return f"{model} ({wanted}) under {policy}: {told['chosen']}, {told['decision'].replace('_', ' ')}"


def counterfactuals(told: Row) -> str:
    """What the other choices would have meant."""
    lines = []
    for key, text in (
        ("fastest", "The fastest node"),
        ("next_cheapest", "The next cheapest in time"),
        ("without_deadline", "Without a deadline"),
    ):
        other = told[key]
        if other is None:
            continue
        if other["node"] == told["chosen"]:
            lines.append(f"{text} is the one chosen." if key != "without_deadline" else f"{text} it goes there too.")
            continue
        verb = "is" if key != "without_deadline" else "it would go to"
        lines.append(f"{text} {verb} {other['node']}: {_difference(other, told['chosen'] is not None)}.")
    return "\n".join(lines)


def _difference(other: Row, compared: bool) -> str:
    absolute = f"{_usd(other['cost_usd'])} a million and {_s(other['mean_s'])}"
    if not compared:
        return absolute
    dearer, slower = other["extra_cost_usd"], other["extra_s"]
    cost = f"{_usd(abs(dearer))} a million {'more' if dearer >= 0 else 'less'}"
    pace = f"{_s(abs(slower))} {'slower' if slower >= 0 else 'faster'}"
    return f"{cost} and {pace} ({absolute})"


def decided(told: Row) -> RenderableType:
    """What was decided: predicted against actual for every attempt."""
    parts: list[RenderableType] = [Text(_summary(told), "bold")]
    if told.get("refused"):
        parts.append(Text(f"refused: {told['refused']['code']}: {told['refused']['detail']}"))
    for attempt in told["attempts"]:
        table = Table(box=None, header_style="bold", title_justify="left", title=_attempt(attempt))
        table.add_column("")
        for _, name in PARTS:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("$ a million", justify="right", no_wrap=True)
        for name in ("predicted", "actual"):
            row = attempt[name]
            if row is not None:
                table.add_row(name, *(_ms(row[f"{key}_ms"]) for key, _ in PARTS), _usd(row["cost_usd"]))
        parts.append(table)
    return Group(*parts)


def _summary(told: Row) -> str:
    text = f"{told['request_id']}  {told['at']}  status {told['status']}"
    if told.get("model"):
        text += f"  {told['model']} under {told['policy']}, took {_ms(told['took_ms'])}"
        if told["deadline_ms"] is not None:
            text += f" of {told['deadline_ms']:.0f} ms: {'in time' if told['in_deadline'] else 'late'}"
    return text


def _attempt(attempt: Row) -> str:
    return (
        f"attempt {attempt['attempt']} at {attempt['node']} in {attempt['region']}, "
        f"{attempt['promise'].replace('_', ' ')}: {attempt['outcome']}"
    )


def _price(row: Row) -> str:
    if row["price"] is not None:
        return f"${row['price']:.2f}/h"
    return f"${row['price_in']:g}+${row['price_out']:g}/Mtok"


def _sure(row: Row) -> str:
    return _s(row["quantile_s"]) if row["probability"] is None else f"{row['probability']:.1%}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _s(seconds: float | None) -> str:
    return _ms(None if seconds is None else seconds * 1e3)


def _usd(dollars: float | None) -> str:
    """Dollars for a million such requests: one costs too little to read."""
    return "-" if dollars is None else f"${dollars * 1e6:,.4g}"
