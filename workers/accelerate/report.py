"""`--report`: a page that holds everything, plotly's script included, and opens anywhere without a network.

Quality against latency, quality against cost, what each variant has saved after so many requests; the figures behind.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from workers.accelerate import summary, verdict
from workers.manifest import Manifest, Variant

Figure = dict[str, Any]

COLOURS = ("#3566d6", "#c8431d", "#16865c", "#8b45c4", "#b07a00", "#0f8ca3", "#c13d84", "#6a7480")
"""Told apart on white and on dark."""
GREY = "#8a929c"
LABELS = ("top right", "bottom right", "top left", "bottom left")
"""Where points are named, in turn: variants alike lie close to each other."""


def write(path: Path, manifest: Manifest) -> Path:
    path.write_text(render(manifest), encoding="utf-8")
    return path


def render(manifest: Manifest) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    parts = resources.files("workers.accelerate")
    title = f"{html.escape(manifest.model)}: what acceleration is worth"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>{(parts / 'report.css').read_text()}</style>",
            f"<script>{get_plotlyjs()}</script>",
            f"</head><body><main><header><h1>{title}</h1>",
            *(f"<p>{html.escape(note)}</p>" for note in summary.notes(manifest)),
            "</header>",
            *(_section(*section) for section in SECTIONS),
            f"<section><h2>All figures</h2>{table(manifest)}{reasons(manifest)}</section></main>",
            f'<script type="application/json" id="figures">{_embedded(figures(manifest))}</script>',
            f"<script>{(parts / 'report.js').read_text()}</script>",
            "</body></html>\n",
        ]
    )


SECTIONS = (
    (
        "Quality against latency",
        "One item alone, median; up and to the left is better. Bars are 95 % intervals, paired with the reference."
        " The dotted step is the Pareto front. Hollow: not served.",
        "latency",
    ),
    (
        "Quality against cost",
        "A thousand items at the batch size of the highest throughput.",
        "cost",
    ),
    (
        "When making it has paid",
        "After so many requests, what a variant saves of accelerator time against the reference has paid for the time"
        " that making it took. A variant that saves nothing never pays.",
        "payback",
    ),
    ("Latency by batch size", "Median of a whole batch; both axes are logarithmic.", "batches"),
)


def figures(manifest: Manifest) -> dict[str, Figure]:
    """By the place on the page."""
    colours = {one.variant: COLOURS[i % len(COLOURS)] for i, one in enumerate(manifest.variants)}
    alone = [one.latency_ms["1"].p50 for one in manifest.variants]
    return {
        "latency": plane(manifest, alone, "milliseconds", colours),
        "cost": plane(manifest, *costs(manifest), colours),
        "payback": payback(manifest.variants, colours),
        "batches": batches(manifest.variants, colours),
    }


def costs(manifest: Manifest) -> tuple[list[float], str]:
    """Of a thousand items: money where a price was given, accelerator seconds where not."""
    if all(one.cost_per_1k is not None for one in manifest.variants):
        return [one.cost_per_1k or 0.0 for one in manifest.variants], "US dollars per 1,000 items"
    return [1e3 * seconds_per_item(one) for one in manifest.variants], "accelerator seconds per 1,000 items"


def seconds_per_item(one: Variant) -> float:
    return verdict.figures(one)[2]


def plane(manifest: Manifest, across: Sequence[float], unit: str, colours: Mapping[str, str]) -> Figure:
    """Quality against something of which less is better."""
    best = [(across[i], manifest.variants[i].quality) for i in verdict.front(manifest.variants, across)]
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
            "x": [x for x, _ in best], "y": [y for _, y in best],
            "line": {"shape": "hv", "color": GREY, "dash": "dot", "width": 1.5},
        }
    ]  # fmt: skip
    for place, (one, x) in enumerate(zip(manifest.variants, across, strict=True)):
        data.append(_point(one, x, unit, colours[one.variant], LABELS[place % len(LABELS)]))
    axis: Figure = {"title": {"text": unit}, "rangemode": "tozero"}
    if max(across) > 8 * min(across) > 0:
        axis |= {"type": "log", "rangemode": "normal"} | ticks(across)
    lines: list[Figure] = []
    if manifest.floor is not None:
        lines = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": manifest.floor, "y1": manifest.floor,
                  "line": {"color": GREY, "width": 1, "dash": "dash"}}]  # fmt: skip
    return {
        "data": data,
        "layout": {
            "xaxis": axis,
            "yaxis": {"title": {"text": "quality"}},
            "height": 440,
            "showlegend": False,
            "shapes": lines,
        },
    }


def ticks(values: Sequence[float]) -> Figure:
    """Ones, twos and fives around these values, for a logarithmic axis."""
    low, high = min(values) / 2, max(values) * 2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [lead * 10.0**decade for decade in decades for lead in (1, 2, 5)]
    found = [each for each in found if low <= each <= high]
    return {"tickvals": found, "ticktext": [f"{each:.3g}" for each in found]}


def _point(one: Variant, x: float, unit: str, colour: str, where: str) -> Figure:
    low, high = one.quality_ci95 or (one.quality, one.quality)
    return {
        "type": "scatter", "mode": "markers+text", "name": one.variant, "x": [x], "y": [one.quality],
        "error_y": {"type": "data", "symmetric": False, "array": [max(high - one.quality, 0)],
                    "arrayminus": [max(one.quality - low, 0)], "thickness": 1, "color": colour},
        "text": [one.variant], "textposition": where, "textfont": {"color": colour},
        "marker": {"color": colour, "size": 11, "symbol": "circle" if one.verdict.served else "circle-open"},
        "hovertemplate": f"<b>{html.escape(one.variant)}</b><br>quality %{{y:.4f}} ({low:.4f} to {high:.4f})"
        f"<br>%{{x:.4g}} {unit}<extra></extra>",
    }  # fmt: skip


def payback(variants: Sequence[Variant], colours: Mapping[str, str]) -> Figure:
    """After how many requests each variant has paid for the work of making it."""
    paid = [(one, one.effort.pays_after) for one in variants if one.effort and one.effort.pays_after is not None]
    bar: Figure = {
        "type": "bar",
        "orientation": "h",
        "y": [one.variant for one, _ in paid],
        "x": [max(after, 1) for _, after in paid],
        "marker": {"color": [colours[one.variant] for one, _ in paid]},
        "text": [f"{after:,} requests for {one.effort.seconds:.1f} s" for one, after in paid if one.effort],
        "textposition": "auto",
        "hoverinfo": "skip",
    }
    axes: Figure = {
        "xaxis": {"title": {"text": "requests"}, "type": "log", "dtick": 1},
        "yaxis": {"autorange": "reversed"},
        "height": 110 + 42 * len(paid),
    }
    never = [one.variant for one in variants[1:] if one.effort and one.effort.pays_after is None]
    if never:
        words = f"never: {', '.join(never)}"
        place = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "xanchor": "right"}
        axes["annotations"] = [{"text": words, "showarrow": False} | place]
    return {"data": [bar], "layout": axes}


def batches(variants: Sequence[Variant], colours: Mapping[str, str]) -> Figure:
    data = [
        {"type": "scatter", "mode": "lines+markers", "name": one.variant, "line": {"color": colours[one.variant]},
         "x": [int(size) for size in one.latency_ms], "y": [times.p50 for times in one.latency_ms.values()]}
        for one in variants
    ]  # fmt: skip
    axes = {
        "xaxis": {"title": {"text": "items in the batch"}, "type": "log", "tickvals": [2**i for i in range(11)]},
        "yaxis": {"title": {"text": "milliseconds"}, "type": "log"}
        | ticks([times.p50 for one in variants for times in one.latency_ms.values()]),
    }
    return {"data": data, "layout": axes | {"height": 380}}


def table(manifest: Manifest) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in summary.HEAD)
    body = "".join(_row(cells, one) for cells, one in zip(summary.rows(manifest), manifest.variants, strict=True))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(cells: Sequence[str], one: Variant) -> str:
    quiet = "" if one.verdict.served else ' class="against"'
    first, *rest = map(html.escape, cells)
    return f"<tr{quiet}><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"


def reasons(manifest: Manifest) -> str:
    """Why what is not served is not, and what there is not."""
    lines = [(f"{one.variant} is not served", one.verdict.reason) for one in summary.against(manifest)]
    lines += [(f"no {one.technique}", one.reason) for one in manifest.absent]
    cells = "".join(f"<dt>{html.escape(what)}</dt><dd>{html.escape(why)}</dd>" for what, why in lines)
    return f"<dl>{cells}</dl>" if lines else ""


def _section(title: str, words: str, slot: str) -> str:
    return f'<section><h2>{title}</h2><p>{words}</p><div class="figure" id="{slot}"></div></section>'


def _embedded(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
