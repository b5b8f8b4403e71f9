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


def signals(told: Row) -> RenderableType:
    """What an autoscaler may go by (docs/signals.md): supply by region, and the demand that nobody could meet."""
    if not told["signals"]:
        return Text("No nodes are known.")
    table = Table(box=None, header_style="bold")
    for name in ("model", "region"):
        table.add_column(name, no_wrap=True)
    for name in ("nodes", "busy", "shadow price", "runway", "idle dear"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in told["signals"]:
        runway = "-" if row["runway_s"] is None else f"{row['runway_s']:.0f} s"
        table.add_row(
            row["model"], row["region"], str(row["nodes"]), f"{row['busy_nodes']:.2f}",
            f"{row['shadow_price_ratio']:.2f}x", runway, f"{row['idle_dear_share']:.0%}",
        )  # fmt: skip
    missed = [
        f"{row['model']}: {row['requests']} requests came in at {row['region']} that nobody could serve in time "
        f"({row['cause']}): {row['accelerator_seconds']:.1f} accelerator seconds"
        for row in told["infeasible"]
    ]
    return Group(table, *map(Text, missed))


def nodes(told: Row) -> RenderableType:
    """One line per node."""
    rows: Sequence[Row] = told["nodes"]
    if not rows:
        return Text("No nodes are known.")
    table = Table(box=None, header_style="bold")
    by_grpc = any(row.get("grpc_address") for row in rows)
    for name in ("node", "region", "state", *(["speaks"] if by_grpc else [])):
        table.add_column(name, no_wrap=True)
    for name in ("quality", "price", "round trip", "wait", "waiting", "running", "in flight"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["node"], row["region"], Text(row["state"], STATES.get(row["state"], "")),
            *(["HTTP, gRPC" if row.get("grpc_address") else "HTTP"] if by_grpc else []), f"{row['quality']:.3f}",
            _price(row), _ms(row["rtt_ms"]), _ms(row["wait_ms"]), _count(row["waiting"]), _count(row["running"]),
            str(row["in_flight"]),
        )  # fmt: skip
    return table


def explained(told: Row, shadow: bool = False) -> RenderableType:
    """What would be decided: every candidate, cheapest first, the verdict, and what else could have been; with
    `shadow`, what the route's second policy would do."""
    table = Table(box=None, header_style="bold")
    table.add_column("node", no_wrap=True)
    table.add_column("region", no_wrap=True)
    for name in ("network", "wait", "prefill", "decode", "total", "spread", "$ a million", last_column(told)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in told["candidates"]:
        table.add_row(
            row["node"], row["region"], _s(row["network_s"]), _s(row["wait_s"]), _s(row["prefill_s"]),
            _s(row["decode_s"]), _s(row["mean_s"]), _s(row["spread_s"]), _usd(row["cost_usd"]), _sure(row),
            row["verdict"], style="bold green" if row["node"] == told["chosen"] else None,
        )  # fmt: skip
    if not told["candidates"]:
        return Text(heading(told), "bold")
    parts: list[RenderableType] = [
        Text(heading(told), "bold"),
        table,
        Text(legend(told), "dim"),
        Text(counterfactuals(told)),
    ]
    parts.append(Text(bills(told)))
    return Group(*parts, *([Text(beside(told), "bold")] if shadow else []))


def bills(told: Row) -> str:
    """What the chosen node adds to the bill, and what the fleet costs anyway."""
    chosen = next((row for row in told["candidates"] if row["node"] == told["chosen"]), None)
    if chosen is None:
        return f"The model's workers cost ${told['fleet_usd_per_hour']:,.2f} an hour, used or not."
    added = f"It adds {_usd(chosen['marginal_usd'])} a million to the bill"
    paid = " (reserved: its hours are paid; what it is weighed by is what others lose)"
    return (
        f"{added}{paid if chosen['cost_mode'] == 'reserved' else ''}; "
        f"the model's workers cost ${told['fleet_usd_per_hour']:,.2f} an hour, used or not."
    )


def beside(told: Row) -> str:
    """What the shadow would do, in one sentence."""
    other = told["shadow"]
    if other is None:
        return "This route has no shadow: give it `shadow: POLICY` in gateway.yaml."
    if other["node"] is None:
        return f"Its shadow {other['policy']} would not send it: {other['decision']}."
    if other["agrees"]:
        return f"Its shadow {other['policy']} would send it there too."
    sure = "" if other["probability"] is None else f", {other['probability']:.1%} surely in time"
    return (
        f"Its shadow {other['policy']} would send it to {other['node']} ({other['decision'].replace('_', ' ')}): "
        f"{_usd(other['cost_usd'])} a million and {_s(other['mean_s'])}{sure}."
    )


def last_column(told: Row) -> str:
    """How surely a node is in time; without a deadline, the time it will hold."""
    return "in time" if told["budget_s"] is not None else f"{told['probability']:.0%} within"


DECISIONS = {
    "feasible": "predicted in time",
    "degraded": "predicted in time, with a lower variant than wanted",
    "best_effort": "best effort, for it is not predicted in time",
}


def heading(told: Row) -> str:
    """The decision in one sentence."""
    model, policy = told["model"], told["policy"]
    if told["decision"] == "hold":
        until = "" if told["hold_s"] is None else f" for {_short(told['hold_s'])} at most"
        return (
            f"{model}, {wanted(told)}, under {policy}: held here{until}, until a node has room; {told['waiting']} wait"
        )
    if told["chosen"] is None:
        detail = f": {told['detail']}" if told["detail"] else ""
        return f"{model}, {wanted(told)}, under {policy}: refused, {told['decision']}{detail}"
    kept = DECISIONS[told["decision"]] if wanted(told) != NO_DEADLINE or told["decision"] == "degraded" else "any time"
    return f"{model}, {wanted(told)}, under {policy}: goes to {told['chosen']} ({kept})"


NO_DEADLINE = "no deadline"


def wanted(told: Row) -> str:
    """The deadlines of the request."""
    parts = (("budget_s", "in {}"), ("first_token_budget_s", "first token in {}"), ("token_budget_s", "{} a token"))
    limits = [text.format(_short(told[key])) for key, text in parts if told[key] is not None]
    return f"{', '.join(limits)}, {told['probability']:.0%} surely" if limits else NO_DEADLINE


def legend(told: Row) -> str:
    """How to read the table."""
    lines = ["Cheapest first. total = network + wait + prefill + decode, the mean; spread is its standard deviation."]
    sure = f"{told['probability']:.0%}"
    if told["budget_s"] is None:
        lines.append(f'"{last_column(told)}": it takes no longer than this, {sure} surely.')
    else:
        limit = _short(told["budget_s"])
        bar = f"{told['bar']:.0%}"
        lines.append(f'"in time": the chance to be complete in {limit}; from {bar} on a node counts as in time now.')
        if bar != sure:
            kept, asked = ("better", "less") if told["bar"] < told["probability"] else ("worse", "more")
            lines.append(
                f"({sure} are promised; promises were kept {kept} than that of late, so {asked} is asked now.)"
            )
    verdicts = " ".join(row["verdict"] for row in told["candidates"])
    if "not drawn" in verdicts:
        lines.append("Of nodes as cheap one is drawn at random, by the room it has; the next request may go elsewhere.")
    elif told["decision"] == "feasible" and "prefers another" not in verdicts:
        lines.append("The cheapest that will do is chosen.")
    return "\n".join(lines)


def counterfactuals(told: Row) -> str:
    """What the other choices would have meant."""
    lines = []
    for key, text in (
        ("fastest", "The fastest node"),
        ("next_cheapest", "The next cheapest" if wanted(told) == NO_DEADLINE else "The next cheapest in time"),
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
        parts.append(Text(_attempt(attempt), "table.title"))  # a table's own title breaks at the table's width
        table = Table(box=None, header_style="bold")
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
        if told.get("held_ms"):
            text += f", held {_ms(told['held_ms'])} of it"
    return text


def _attempt(attempt: Row) -> str:
    return (
        f"attempt {attempt['attempt']} at {attempt['node']} in {attempt['region']}, "
        f"{attempt['promise'].replace('_', ' ')}: {attempt['outcome']}"
    )


def _price(row: Row) -> str:
    if row["price"] is not None:
        paid = " paid" if row.get("cost_mode") == "reserved" else ""
        return f"${row['price']:.2f}/h{paid}"
    return f"${row['price_in']:g}+${row['price_out']:g}/Mtok"


def _sure(row: Row) -> str:
    return _s(row["quantile_s"]) if row["probability"] is None else f"{row['probability']:.1%}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _s(seconds: float | None) -> str:
    return _ms(None if seconds is None else seconds * 1e3)


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def _usd(dollars: float | None) -> str:
    """Dollars for a million such requests: one costs too little to read."""
    if dollars is None:
        return "-"
    million = dollars * 1e6
    return f"${million:,.2f}" if million >= 1 else f"${million:.3g}"
