"""What the report draws of a comparison, as plotly figures in plain dicts: the page's script gives them their colours.

Nothing here names a background or a text colour, so that a page may be light or dark. Figures of the whole comparison
take it alone; those of one policy take its name too. Where things are on earth: atlas.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from loadtests.simulator.result import Bin, Interval
from loadtests.simulator.statistics import Comparison, heading, in_words, interval, plus_minus, ranked
from loadtests.simulator.world import World

Figure = dict[str, Any]
"""`data` and `layout` as plotly.js takes them."""

GREY: Final = "#888c94"
"""Reads on white and on black."""
COLOURS: Final = {
    "isochrone": "#e4572e",
    "prequal": "#3f8fd2",
    "peak_ewma": "#3aa676",
    "least_outstanding": "#a877c5",
    "round_robin": "#c08a2e",
    "clairvoyant": GREY,
}
"""The six of the headline; apart also for the colour-blind (after Okabe and Ito)."""
OTHERS: Final = (
    "#17a2b8",
    "#d1618f",
    "#7a9a01",
    "#8d6e63",
    "#5c6bc0",
    "#ef8a62",
    "#009688",
    "#b5a642",
    "#9e5a9e",
    "#4aa3a2",
)
SEES_ALL: Final = "clairvoyant"
"""Policies whose names begin so see what no gateway can."""
ATTAINMENT: Final = [
    [0, "#8c2d04"],
    [0.5, "#d9693a"],
    [0.8, "#f2b279"],
    [0.9, "#e8dfb0"],
    [0.97, "#8fc79a"],
    [1, "#2b8a57"],
]
"""Bends where deadlines are met: 90 and 99 % must not look alike."""
DEPTH: Final = [[0, "rgba(90,160,216,0.04)"], [0.33, "#5aa0d8"], [0.67, "#b07cc6"], [1, "#c9364f"]]
"""Of a queue, by the logarithm of what waits."""
DOLLARS: Final = tuple(digit * 10**power for power in range(-5, 4) for digit in (1, 1.5, 2, 3, 5, 7))
"""Where a logarithmic axis of costs has its ticks."""
LINES: Final = 10
"""More in one panel can't be told apart."""
BINS: Final = 10
"""Of the reliability diagram, as the ledger makes them."""


def palette(policies: Iterable[str]) -> dict[str, str]:
    """A colour each, the same in every figure of a page."""
    others = itertools.cycle(OTHERS)
    return {name: COLOURS.get(name) or next(others) for name in policies}


def real(policy: str) -> bool:
    """Whether a gateway could run it."""
    return not policy.startswith(SEES_ALL)


def short(value: float | None) -> float | None:
    """Five digits are more than a screen shows; what is not finite is not drawn."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def front(comparison: Comparison) -> list[str]:
    """The real policies that no other real one beats in both attainment and cost, cheapest first."""
    points = {
        name: (comparison.mean(name, "cost_per_1k"), comparison.mean(name, "attainment"))
        for name in comparison.runs
        if real(name)
    }
    kept = [
        name
        for name, (cost, met) in points.items()
        if math.isfinite(cost) and not any(c <= cost and m >= met and (c, m) != (cost, met) for c, m in points.values())
    ]
    return sorted(kept, key=lambda name: points[name])


def plane(comparison: Comparison, colours: Mapping[str, str]) -> Figure:
    """Attainment against cost: up and to the left is better. The step is the Pareto front of the real policies."""
    best = front(comparison)
    data: list[Any] = [_front_line(comparison, best)]
    for name in ranked(comparison):
        cost, met = comparison.interval(name, "cost_per_1k"), comparison.interval(name, "attainment")
        if not math.isfinite(cost.mean):
            continue
        data.append(
            {
                "type": "scatter", "mode": "markers+text", "name": name,
                "x": [short(cost.mean)], "y": [short(met.mean * 100)],
                "error_x": _bar(cost), "error_y": _bar(met, 100),
                "text": [name if name in best or name == comparison.reference or not real(name) else ""],
                "textposition": "bottom right" if real(name) else "top right", "textfont": {"color": colours[name]},
                "marker": {"color": colours[name], "size": 12, "symbol": "circle" if real(name) else "diamond-open"},
                "hovertemplate": f"<b>{name}</b><br>in deadline {plus_minus(met, 1, 100)} %<br>"
                f"${plus_minus(cost, 4)} per 1,000 in deadline<extra></extra>",
            }
        )  # fmt: skip
    costs = [trace["x"][0] for trace in data[1:]]
    if comparison.limit is not None:
        limit = comparison.limit
        data.append(_limit_mark("fluid bound", "star", "top center", limit.attainment, limit.cost_per_1k))
        data.append(
            _limit_mark(
                "fluid, steady", "star-open", "bottom center", limit.steady_attainment, limit.steady_cost_per_1k
            )
        )
        costs += [limit.cost_per_1k, limit.steady_cost_per_1k]
    axis: dict[str, Any] = {"title": {"text": "US dollars per 1,000 requests in deadline"}, "tickprefix": "$"}
    if costs and max(costs) > 4 * min(costs) > 0:
        axis |= {"type": "log", "tickvals": [value for value in DOLLARS if min(costs) / 2 < value < max(costs) * 2]}
    return {"data": data, "layout": {"xaxis": axis, "yaxis": {"title": {"text": "in deadline, %"}}, "height": 480}}


def _front_line(comparison: Comparison, best: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
        "x": [short(comparison.mean(name, "cost_per_1k")) for name in best],
        "y": [short(comparison.mean(name, "attainment") * 100) for name in best],
        "line": {"shape": "hv", "color": GREY, "dash": "dot", "width": 1.5},
    }  # fmt: skip


def _limit_mark(name: str, symbol: str, where: str, met: float, cost: float) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers+text", "name": name, "text": [name],
        "x": [short(cost)], "y": [short(met * 100)], "textposition": where, "textfont": {"color": GREY},
        "marker": {"color": GREY, "size": 14, "symbol": symbol},
        "hovertemplate": f"<b>{name}</b><br>%{{y}} % at $%{{x}}<extra></extra>",
    }  # fmt: skip


def _bar(one: Interval, scale: float = 1.0) -> dict[str, Any]:
    half = short(one.half)
    return {"type": "data", "array": [0 if half is None else half * scale], "thickness": 1.2, "width": 3}


def axes(comparisons: Sequence[Comparison]) -> tuple[str, list[str]]:
    """What runs along the x axis (the number of most values, else what there is), and what makes panels."""
    values: dict[str, set[object]] = {}
    for comparison in comparisons:
        for key, value in comparison.label.items():
            values.setdefault(key, set()).add(value)
    numbers = [key for key, seen in values.items() if all(isinstance(v, int | float) for v in seen)]
    along = max(numbers or list(values), key=lambda key: len(values[key]))
    return along, [key for key in values if key != along and len(values[key]) > 1]


def sweep(comparisons: Sequence[Comparison], figure: str, colours: Mapping[str, str]) -> Figure:
    """A figure of merit along what is varied: one panel per combination of the rest."""
    along, rest = axes(comparisons)
    panels: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        panels.setdefault(", ".join(in_words(key, comparison.label[key]) for key in rest), []).append(comparison)
    crossed = {name: members for name, members in panels.items() if len(members) > 1}
    panels = crossed or panels  # a single point runs along nothing
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    layout: dict[str, Any] = {
        "grid": {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.12, "ygap": 0.28},
        "height": 130 + 260 * rows, "annotations": [],
    }  # fmt: skip
    data = []
    percent = figure == "attainment"
    for number, (name, members) in enumerate(panels.items(), start=1):
        tag = "" if number == 1 else str(number)
        layout[f"xaxis{tag}"] = {"title": {"text": heading(along)}, "tickvals": _ticks(members, along)}
        layout[f"yaxis{tag}"] = (
            {"ticksuffix": " %", "matches": "y"} if percent else {"tickprefix": "$", "rangemode": "tozero"}
        )
        layout["annotations"].append(
            {"text": f"<b>{name}</b>", "xref": f"x{tag} domain", "yref": f"y{tag} domain", "x": 0, "y": 1.12,
             "xanchor": "left", "showarrow": False}
        )  # fmt: skip
        data += [_line(members, along, policy, figure, colours[policy], tag, number == 1) for policy in members[0].runs]
        data.append(_limit_line(members, along, figure, tag, number == 1))
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def crossing(comparisons: Sequence[Comparison], figure: str) -> Figure:
    """The same as numbers in a table, for more policies than lines can tell apart: the best on the whole first."""
    names = list(comparisons[0].runs)
    rows = {name: [one.mean(name, figure) if name in one.runs else math.nan for one in comparisons] for name in names}
    met = figure == "attainment"
    known = [value for row in rows.values() for value in row if math.isfinite(value)]
    order = sorted(names, key=lambda name: interval(rows[name]).mean * (-1 if met else 1))
    scale = 100 if met else 1
    least = min(known, default=1.0)
    heat = {"zmin": 0, "zmax": 100} if met else {"zmin": least, "zmax": 3 * least, "reversescale": True}
    return {
        "data": [{
            "type": "heatmap", "x": [one.name for one in comparisons], "y": order, "showscale": False,
            "z": [[short(value * scale) for value in rows[name]] for name in order], "xgap": 2, "ygap": 2,
            "texttemplate": "%{z:.1f}" if met else "%{z:.3f}", **heat, "colorscale": ATTAINMENT,
            "hovertemplate": "%{y}, %{x}: %{z}<extra></extra>",
        }],
        "layout": {
            "title": {"text": "in deadline, %" if met else "US dollars per 1,000 requests in deadline"},
            "yaxis": {"autorange": "reversed", "showgrid": False, "automargin": True},
            "xaxis": {"showgrid": False, "automargin": True, "type": "category"}, "height": 150 + 24 * len(order),
        },
    }  # fmt: skip


def _ticks(members: Sequence[Comparison], along: str) -> list[Any]:
    return list(dict.fromkeys(member.label[along] for member in members))


def _line(
    members: Sequence[Comparison], along: str, policy: str, figure: str, colour: str, tag: str, first: bool
) -> dict[str, Any]:
    scale = 100 if figure == "attainment" else 1
    points = [(member.label[along], member.interval(policy, figure)) for member in members if policy in member.runs]
    return {
        "type": "scatter", "mode": "lines+markers", "name": policy, "legendgroup": policy, "showlegend": first,
        "x": [x for x, _ in points], "y": [short(one.mean * scale) for _, one in points],
        "error_y": {"type": "data", "array": [short((one.half or 0) * scale) for _, one in points], "thickness": 1},
        "xaxis": f"x{tag}", "yaxis": f"y{tag}", "line": {"color": colour, "dash": "solid" if real(policy) else "dash"},
        "marker": {"color": colour, "symbol": "circle" if real(policy) else "diamond-open"},
    }  # fmt: skip


def _limit_line(members: Sequence[Comparison], along: str, figure: str, tag: str, first: bool) -> dict[str, Any]:
    drawn = figure in ("attainment", "cost_per_1k")
    scale = 100 if figure == "attainment" else 1
    known = [member for member in members if member.limit is not None and drawn]
    return {
        "type": "scatter", "mode": "lines", "name": "fluid bound", "legendgroup": "bound", "showlegend": first,
        "x": [member.label[along] for member in known],
        "y": [short(getattr(member.limit, figure) * scale) for member in known],
        "xaxis": f"x{tag}", "yaxis": f"y{tag}", "line": {"color": GREY, "dash": "dot"},
    }  # fmt: skip


def heat(comparison: Comparison, part: str, order: Sequence[str] = ()) -> Figure:
    """Attainment by policy and by `part` of the demand: `by_class`, `by_region` or `by_tenant`."""
    names = ranked(comparison)
    known = list(getattr(comparison.runs[names[0]][0].detail, part))
    parts = [one for one in order if one in known] + [one for one in known if one not in order]
    rows = [
        [
            interval([getattr(run.detail, part).get(one, math.nan) for run in comparison.runs[name]]).mean
            for one in parts
        ]
        for name in names
    ]
    return {
        "data": [{
            "type": "heatmap", "x": parts, "y": names, "z": [[short(value * 100) for value in row] for row in rows],
            "zmin": 0, "zmax": 100, "colorscale": ATTAINMENT, "showscale": False, "xgap": 3, "ygap": 3,
            "texttemplate": "%{z:.1f}", "hovertemplate": "%{y}, %{x}: %{z:.1f} % in deadline<extra></extra>",
        }],
        "layout": {
            "yaxis": {"autorange": "reversed", "showgrid": False, "automargin": True},
            "xaxis": {"showgrid": False, "automargin": True}, "height": 110 + 34 * len(names),
        },
    }  # fmt: skip


def pooled(bins: Iterable[Bin]) -> list[Bin]:
    """Bins of several seeds as one diagram."""
    sums: dict[int, list[float]] = {}
    for one in bins:
        row = sums.setdefault(min(BINS - 1, int(one.predicted * BINS)), [0.0, 0.0, 0])
        row[0] += one.predicted * one.requests
        row[1] += one.observed * one.requests
        row[2] += one.requests
    return [Bin(p / n, o / n, int(n)) for _, (p, o, n) in sorted(sums.items()) if n]


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Distance down and up from an observed share to the ends of its 95 % interval (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, share - centre + half), max(0.0, centre + half - share)


def _middle(one: Bin) -> float:
    """Of a bin, in percent."""
    return 100 * (min(BINS - 1, int(one.predicted * BINS)) + 0.5) / BINS


def reliability(comparison: Comparison, policy: str, colours: Mapping[str, str]) -> Figure:
    """How often a deadline was met against how often that was predicted, and how many requests each bin holds."""
    bins = pooled(one for run in comparison.runs[policy] for one in run.detail.reliability)
    x, y = [short(one.predicted * 100) for one in bins], [short(one.observed * 100) for one in bins]
    spread = [wilson(min(1.0, one.observed), one.requests) for one in bins]
    counts = [one.requests for one in bins]
    detail = [run.detail for run in comparison.runs[policy]]
    brier, ece = interval(one.brier for one in detail).mean, interval(one.ece for one in detail).mean
    return {
        "data": [
            {"type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "hoverinfo": "skip",
             "name": "as predicted", "line": {"color": GREY, "dash": "dot", "width": 1.5}},
            {"type": "scatter", "mode": "lines+markers", "name": policy, "x": x, "y": y, "customdata": counts,
             "error_y": {"type": "data", "symmetric": False, "array": [short(up * 100) for _, up in spread],
                         "arrayminus": [short(down * 100) for down, _ in spread], "thickness": 1.2},
             "line": {"color": colours[policy]}, "marker": {"size": 8},
             "hovertemplate": "predicted %{x:.1f} %, met %{y:.1f} %<br>%{customdata:,} requests<extra></extra>"},
            {"type": "bar", "x": [_middle(one) for one in bins], "y": counts, "yaxis": "y2", "name": "requests",
             "showlegend": False,
             "marker": {"color": colours[policy], "opacity": 0.55}, "width": 80 / BINS,
             "hovertemplate": "%{y:,} requests<extra></extra>"},
        ],
        "layout": {
            "title": {"text": f"{policy}: Brier score {brier:.3f}, calibration error {ece:.3f}"},
            "xaxis": {"title": {"text": "predicted probability, %"}, "range": [-2, 102], "anchor": "y2"},
            "yaxis": {"title": {"text": "met, %"}, "range": [-2, 102], "domain": [0.32, 1]},
            "yaxis2": {"title": {"text": "requests"}, "type": "log", "domain": [0, 0.24], "dtick": 1},
            "height": 540, "bargap": 0.1,
        },
    }  # fmt: skip


def waiting(comparison: Comparison, world: World, colours: Mapping[str, str]) -> Figure:
    """Requests waiting in all workers over time, mean over seeds; on a logarithm, where nothing is drawn at 0.5."""
    data = []
    for name, runs in comparison.runs.items():
        totals = [[sum(column) for column in zip(*run.detail.queues.values(), strict=True)] for run in runs]
        mean = [sum(column) / len(column) for column in zip(*totals, strict=False)]
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "x": [short(at) for at in runs[0].detail.queue_times],
                "y": [short(max(0.5, value)) for value in mean],
                "line": {"color": colours[name], "width": 2, "dash": "solid" if real(name) else "dash"},
                "hovertemplate": f"{name}: %{{y:,.0f}} waiting at %{{x:.1f}} s<extra></extra>",
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "seconds"}}, "height": 400, "shapes": _moments(world),
            "yaxis": {"title": {"text": "requests waiting"}, "type": "log", "dtick": 1, "exponentformat": "none"},
        },
    }  # fmt: skip


def waiting_by_region(comparison: Comparison, policy: str, world: World) -> Figure:
    """Where they wait under one policy."""
    runs = comparison.runs[policy]
    regions = list(runs[0].detail.queues)
    rows = []
    for region in regions:
        columns = zip(*(run.detail.queues[region] for run in runs), strict=False)
        rows.append([sum(column) / len(column) for column in columns])
    return {
        "data": [{
            "type": "heatmap", "x": [short(at) for at in runs[0].detail.queue_times], "y": regions,
            "z": [[short(math.log10(1 + value)) for value in row] for row in rows],
            "customdata": [[short(value) for value in row] for row in rows], "zmin": 0, "zmax": 3,
            "colorscale": DEPTH,
            "colorbar": {"tickvals": [math.log10(1 + n) for n in (0, 1, 10, 100, 1000)], "thickness": 12,
                         "ticktext": ["0", "1", "10", "100", "1,000"], "title": {"text": "waiting"}},
            "hovertemplate": "%{y}: %{customdata:.1f} waiting at %{x:.1f} s<extra></extra>",
        }],
        "layout": {
            "title": {"text": f"{policy}: requests waiting, by region"},
            "xaxis": {"title": {"text": "seconds"}, "showgrid": False}, "shapes": _moments(world),
            "yaxis": {"autorange": "reversed", "showgrid": False, "automargin": True},
            "height": 130 + 24 * len(regions),
        },
    }  # fmt: skip


def _moments(world: World) -> list[dict[str, Any]]:
    """The end of the warm-up, and when faults begin."""
    marks = [(world.warm_up, GREY)] if world.warm_up else []
    marks += [(fault.at, "#c0392b") for fault in world.faults]
    return [
        {
            "type": "line",
            "x0": at,
            "x1": at,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": colour, "dash": "dot"},
        }
        for at, colour in marks
    ]
