"""The report: one HTML file with everything in it, plotly.js included once, that opens anywhere without a network.

Figures come as plain dicts (charts.py, atlas.py) and words as text (findings.py); this module sets them on a page.
page.css and page.js beside it give colours for light and dark, and draw the case and the policy that were chosen.
"""

from __future__ import annotations

import datetime
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
from plotly.offline import get_plotlyjs

from loadtests.simulator import atlas, charts, findings
from loadtests.simulator.charts import Figure
from loadtests.simulator.statistics import COLUMNS, Comparison, bounds, cells, heading, ranked
from loadtests.simulator.world import World

MANY_TENANTS: Final = 16
"""More make no legible column each."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a page is made of."""

    title: str
    comparisons: Sequence[Comparison]
    """One per case; the world of each stands in `worlds` at the same place."""
    worlds: Sequence[World]
    definition: str = ""
    """The scenario's file: its comments name the sources."""
    focus: int = 0
    """The case that is shown first, and that the headline speaks of."""


def write(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The whole page."""
    policies = list(dict.fromkeys(name for one in report.comparisons for name in one.runs))
    colours = charts.palette(policies)
    figures = {
        "overview": overview(report.comparisons, colours),
        "cases": [
            _case(one, world, colours) for one, world in zip(report.comparisons, report.worlds, strict=True)
        ],
        "background": atlas.background(),
        "focus": report.focus,
        "policy": report.comparisons[report.focus].reference,
    }  # fmt: skip
    parts = resources.files("loadtests.simulator")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(report.title)}</title>",
            f"<style>{(parts / 'page.css').read_text()}</style>",
            f"<script>{get_plotlyjs()}</script>",
            "</head><body><main>",
            *_body(report, policies),
            "</main>",
            f'<script type="application/json" id="figures">{_embedded(figures)}</script>',
            f"<script>{(parts / 'page.js').read_text()}</script>",
            "</body></html>\n",
        ]
    )


def _embedded(figures: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(figures, separators=(",", ":"), allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")


def overview(comparisons: Sequence[Comparison], colours: Mapping[str, str]) -> dict[str, Figure]:
    """Figures along what is varied; none where nothing is."""
    if len(comparisons) < 2:
        return {}
    figures = ("attainment", "cost_per_1k")
    if len(colours) > charts.LINES:
        return {figure: charts.crossing(comparisons, figure) for figure in figures}
    return {figure: charts.sweep(comparisons, figure, colours) for figure in figures}


def _case(comparison: Comparison, world: World, colours: Mapping[str, str]) -> dict[str, Any]:
    """All figures of one case, and its words and table."""
    single = {
        "plane": charts.plane(comparison, colours),
        "classes": charts.heat(comparison, "by_class", [kind.name for kind in world.demand.classes]),
        "regions": charts.heat(comparison, "by_region", list(world.regions)),
        "waiting": charts.waiting(comparison, world, colours),
    }
    tenants = comparison.runs[comparison.reference][0].detail.by_tenant
    if 1 < len(tenants) <= MANY_TENANTS:
        single["tenants"] = charts.heat(comparison, "by_tenant")
    return {
        "name": comparison.name,
        "words": "".join(f"<p>{html.escape(sentence)}</p>" for sentence in findings.verdict(comparison)),
        "table": _table(comparison),
        "world": _rows(findings.assumptions(world)),
        "figures": single,
        "policies": {
            name: {
                "reliability": charts.reliability(comparison, name, colours),
                "flows": atlas.flows(comparison, name, world),
                "matrix": atlas.matrix(comparison, name, world),
                "depth": charts.waiting_by_region(comparison, name, world),
            }
            for name in comparison.runs
        },
    }


def _table(comparison: Comparison) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ("policy", *COLUMNS))
    rows = []
    for name in ranked(comparison):
        mark = ' class="ours"' if name == comparison.reference else ""
        rows.append(f"<tr{mark}><th>{html.escape(name)}</th>{_cells(cells(comparison, name))}</tr>")
    rows += [f'<tr class="bound"><th>{html.escape(row[0])}</th>{_cells(row[1:])}</tr>' for row in bounds(comparison)]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"<td>{html.escape(text)}</td>" for text in texts)


def _rows(pairs: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(
        f"<tr><th>{html.escape(what)}</th><td>{html.escape(how)}</td></tr>" for what, how in pairs
    ) + "</table>"  # fmt: skip


def _body(report: Report, policies: Sequence[str]) -> list[str]:
    focus, world = report.comparisons[report.focus], report.worlds[report.focus]
    requests = sum(run.requests for one in report.comparisons for runs in one.runs.values() for run in runs)
    made = datetime.datetime.now(datetime.UTC).strftime("%d %B %Y")
    facts = (
        f"{len(policies)} policies, {len(report.comparisons)} case{'s' * (len(report.comparisons) > 1)},"
        f" {max(len(one.seeds) for one in report.comparisons)} paired seeds, {requests:,} simulated requests · {made}"
    )
    sections = [
        f"<header><h1>{html.escape(report.title)}</h1>",
        f"<p class='about'>{html.escape(world.about)}</p><p class='facts'>{html.escape(facts)}</p></header>",
        _controls(report, policies),
        f'<section class="headline"><h2>Who won <span class="case">{html.escape(focus.name)}</span></h2>'
        '<div id="words"></div></section>',
    ]
    if len(report.comparisons) > 1:
        sections.append(_section("All cases", OVERVIEW, "attainment", "cost_per_1k", of_case=False))
    for title, words, *slots in SECTIONS:
        sections.append(_section(title, words, *slots))
    sections.append(_world(report))
    return sections


def _controls(report: Report, policies: Sequence[str]) -> str:
    """Which case, and whose map, calibration and queues."""
    keys: dict[str, list[Any]] = {}
    for one in report.comparisons:
        for key, value in one.label.items():
            values = keys.setdefault(key, [])
            if value not in values:
                values.append(value)
    labels = json.dumps([dict(one.label) for one in report.comparisons])
    focus = report.comparisons[report.focus]
    chosen = {key: focus.label.get(key) for key in keys}
    selects = [
        f'<label>{html.escape(heading(key))} <select data-key="{html.escape(key)}">'
        + "".join(_option(value, value == chosen[key]) for value in values)
        + "</select></label>"
        for key, values in keys.items()
    ]
    options = "".join(_option(name, name == focus.reference) for name in policies)
    selects.append(f'<label>policy of map, calibration and queues <select id="policy">{options}</select></label>')
    return f"<nav data-labels='{html.escape(labels, quote=True)}'>{''.join(selects)}</nav>"


def _option(value: object, chosen: bool) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    encoded = html.escape(json.dumps(value), quote=True)
    return f'<option value="{encoded}"{" selected" * chosen}>{html.escape(text)}</option>'


def _section(title: str, words: str, *slots: str, of_case: bool = True) -> str:
    divs = "".join(f'<div class="figure" id="{slot}"></div>' for slot in slots)
    case = ' <span class="case"></span>' if of_case else ""
    return f"<section><h2>{title}{case}</h2><p>{words}</p>{divs}</section>"


OVERVIEW: Final = (
    "Share of all offered requests that met every deadline, then the cost of a thousand of them, with 95 % intervals"
    " over the seeds. Dashed: sees what no gateway can. Dotted: the fluid bound. Click a name to hide it."
)
SECTIONS: Final = (
    ("Attainment against cost",
     "Up and to the left is better. Bars are 95 % intervals over the seeds; the dotted step is the Pareto front of the"
     " policies that a gateway can run. Hollow diamonds see every queue as it is; the star is the fluid bound, which"
     " nobody can pass, the hollow star the same program at a steady rate.",
     "plane"),
    ("All figures",
     "Mean ± half the 95 % interval. The paired difference is in points of attainment, on the same requests. Cost is"
     " all accelerator time spent, wasted work included; fleet cost is the bill for every node all of the time. Times"
     " are to the first token. Herd: the most that came to one node within one age of its news, over what it can serve"
     " in it. Jain: 1 is even between tenants or regions. µs: CPU time of one decision.",
     "table"),
    ("What each class got", "Percent in deadline, by deadline class.", "classes", "tenants"),
    ("What each region got", "Percent in deadline, by the region of the client.", "regions"),
    ("Predicted and kept",
     "Of the requests that were given a probability of meeting their deadline, how many met it. On the dotted line the"
     " prediction is right; below it, it promised too much. Below: how many requests each bin holds. A policy that does"
     " not predict has no points.",
     "reliability"),
    ("Who was served where",
     "Ring: what was asked in a region. Disc: what was served there. Arcs bend to the left of their direction; wider is"
     " more. Drag to move, scroll to come closer.",
     "flows", "matrix"),
    ("Queues over time",
     "Requests waiting in all workers, on a logarithm, mean over seeds; below, where they wait. Dotted: the end of the"
     " warm-up, and in red the beginning of a fault.",
     "waiting", "depth"),
)  # fmt: skip


def _world(report: Report) -> str:
    definition = ""
    if report.definition:
        definition = (
            "<details><summary>The definition, with its sources</summary>"
            f"<pre>{html.escape(report.definition)}</pre></details>"
        )
    return (
        f"<section><h2>The world and its assumptions <span class='case'></span></h2><p>{CAVEAT}</p>"
        f"<div id='world'></div>{definition}</section>"
    )


CAVEAT: Final = (
    "Every policy meets the same requests, the same noise and the same slow periods in a seed. Gateways see only what"
    " heartbeats, probes and their own requests tell them, as late as it is told. A made world shows how policies"
    " compare in it, not what they would do in another."
)
