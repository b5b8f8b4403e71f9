"""Where things are: an equal-area map of the earth, and on it who was served where.

The land (`land.json`) is Natural Earth's 1:110m, public domain, decoded from `land-110m.json` of the npm package
world-atlas 2.0.2 by `python -m loadtests.simulator.atlas land-110m.json`; it travels with us so that a page needs no
network. Coordinates are tenths of a degree.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from loadtests.simulator.charts import GREY, Figure, short
from loadtests.simulator.statistics import Comparison, percent
from loadtests.simulator.world import World

Point = tuple[float, float]

SOUTH, NORTH = -56.0, 78.0
"""Beyond them are no data centres."""
SMALL: Final = 3.0
"""Square degrees of islands too small to draw."""
FAINT: Final = 0.004
"""Flows below this share of all that was answered are left out."""
BEND: Final = 0.16
"""Of a flow's length: both directions of a pair stay apart."""
STEPS: Final = 14
WIDTHS: Final = ((0.004, 1.0), (0.01, 2.0), (0.02, 3.5), (0.04, 5.5), (0.08, 8.0))
"""Share of all that was answered from which a flow is so many pixels wide."""
ASKED, SERVED = "#3f8fd2", "#e4572e"
CLOSE: Final = 12.0
"""Degrees between regions whose names and discs would cover each other."""
WIDTH: Final = 1090.0
"""Pixels of the map on a page as wide as it gets."""
SPOT: Final = 64.0
"""Pixels across of a region that asks for, or serves, everything."""


def project(longitude: float, latitude: float) -> Point:
    """Equal Earth (Savric, Patterson and Jenny 2018): areas true, and looks as one expects. Degrees to map units."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    t = math.asin(math.sqrt(3) / 2 * math.sin(math.radians(latitude)))
    squeeze = 9 * a4 * t**8 + 7 * a3 * t**6 + 3 * a2 * t**2 + a1
    x = 2 * math.sqrt(3) * math.radians(longitude) * math.cos(t) / (3 * squeeze)
    return x, a4 * t**9 + a3 * t**7 + a2 * t**3 + a1 * t


def land() -> Iterator[list[Point]]:
    """Outlines, in degrees."""
    flat = json.loads((resources.files("loadtests.simulator") / "land.json").read_text())["rings"]
    for ring in flat:
        yield [(x / 10, y / 10) for x, y in zip(ring[::2], ring[1::2], strict=True)]


def decode(topology: Mapping[str, Any]) -> list[list[Point]]:
    """The outer rings of a TopoJSON's land: shared arcs of steps from point to point, backwards if negative."""
    (sx, sy), (dx, dy) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs: list[list[Point]] = []
    for arc in topology["arcs"]:
        x = y = 0
        arcs.append([])
        for step_x, step_y in arc:
            x, y = x + step_x, y + step_y
            arcs[-1].append((x * sx + dx, y * sy + dy))
    rings = [
        [point for index in polygon[0] for point in (arcs[index] if index >= 0 else arcs[~index][::-1])]
        for geometry in topology["objects"]["land"]["geometries"]
        for polygon in geometry["arcs"]
    ]
    return [half for ring in rings for half in halves(ring)]


def halves(ring: Sequence[Point]) -> list[list[Point]]:
    """A ring that crosses the date line, as two that end there."""
    whole, turn = [ring[0]], 0
    for (before, _), (x, y) in pairwise(ring):
        turn += 360 * (x - before < -180) - 360 * (x - before > 180)
        whole.append((x + turn, y))
    made = []
    for shift in (-360, 0, 360):
        inside = [(max(-180.0, min(180.0, x + shift)), y) for x, y in whole]
        if min(x for x, _ in inside) < max(x for x, _ in inside):
            # Of what lies beyond the line only its ends are left.
            around = zip([inside[-1], *inside], inside, [*inside[1:], inside[0]], strict=False)
            made.append([(x, y) for (w, _), (x, y), (z, _) in around if not (abs(x) == 180 and w == x == z)])
    return made


def area(ring: Sequence[Point]) -> float:
    """Square degrees, by the shoelace formula."""
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(ring, [*ring[1:], ring[0]], strict=True))) / 2


def background() -> list[dict[str, Any]]:
    """Land and a graticule: the same under every map, so a page carries it once. Colours are the page's."""
    outlines = [[project(x, y) for x, y in ring] for ring in land()]
    meridians = [[project(x, y) for y in range(int(SOUTH), int(NORTH) + 1, 2)] for x in range(-180, 181, 30)]
    parallels = [[project(x, y) for x in range(-180, 181, 4)] for y in range(-30, 61, 30)]
    base = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    return [
        {**base, **_paths(meridians + parallels), "line": {"width": 0.5}, "meta": "graticule"},
        {**base, **_paths(outlines), "line": {"width": 0.6}, "fill": "toself", "meta": "land"},
    ]


def _paths(paths: Sequence[Sequence[Point]]) -> dict[str, list[float | None]]:
    """Several lines as one trace: None lifts the pen."""
    points = [point for path in paths for point in (*path, (None, None))]
    return {
        "x": [None if x is None else round(x, 3) for x, _ in points],
        "y": [None if y is None else round(y, 3) for _, y in points],
    }


def flows(comparison: Comparison, policy: str, world: World) -> Figure:
    """Rings: what was asked in a region; discs: what was served there, by area. Arcs: who was served elsewhere."""
    counts = answered(comparison, policy)
    total = sum(sum(row.values()) for row in counts.values()) or 1
    at = {name: project(place.longitude, place.latitude) for name, place in world.regions.items()}
    arcs: dict[float, list[Sequence[Point]]] = {}
    middles, words = [], []
    for origin, row in counts.items():
        for worker, count in row.items():
            if origin != worker and count / total >= FAINT:
                width = max(pixels for least, pixels in WIDTHS if count / total >= least)
                arcs.setdefault(width, []).append(curve(at[origin], at[worker]))
                middles.append(arcs[width][-1][STEPS // 2])
                words.append(f"{origin} → {worker}: {percent(count / total)} of all")
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, **_paths(paths),
         "line": {"width": width, "color": "rgba(228,160,50,0.55)"}}
        for width, paths in sorted(arcs.items())
    ]  # fmt: skip
    data.append(
        {"type": "scatter", "mode": "markers", "text": words,
         "x": [short(x) for x, _ in middles], "y": [short(y) for _, y in middles],
         "hovertemplate": "%{text}<extra></extra>", "marker": {"size": 7, "color": "rgba(228,160,50,0.9)"},
         "name": "served elsewhere"}
    )  # fmt: skip
    data += _regions(counts, at, total)
    abroad = sum(count for origin, row in counts.items() for worker, count in row.items() if origin != worker)
    close = crowd({name: (place.longitude, place.latitude) for name, place in world.regions.items()})
    used = {*counts, *(worker for row in counts.values() for worker in row)}
    alone = {name: at[name] for name in at if name in used and name not in close}
    layout = {
        "title": {"text": f"{policy}: {percent(abroad / total, 0)} of what was answered was served in another region"},
        "annotations": labels(alone),
        "xaxis": {"visible": False, "range": [-2.55, 2.62], "constrain": "domain"},
        "yaxis": {"visible": False, "range": [project(0, SOUTH)[1], project(0, NORTH)[1]], "scaleanchor": "x"},
        "height": 600, "margin": {"l": 0, "r": 0, "t": 70, "b": 10}, "dragmode": "pan",
    }  # fmt: skip
    if close:
        _inset(layout, {name: at[name] for name in close})
    return {"data": data, "layout": layout}


def _regions(counts: Mapping[str, Mapping[str, int]], at: Mapping[str, Point], total: int) -> list[dict[str, Any]]:
    asked = {name: sum(counts.get(name, {}).values()) / total for name in at}
    served = {name: sum(row.get(name, 0) for row in counts.values()) / total for name in at}
    hover = [f"<b>{name}</b><br>asked {percent(asked[name])}, served {percent(served[name])}" for name in at]
    ring = {"symbol": "circle-open", "color": ASKED, "line": {"width": 2}}
    return [
        _spots(at, served, hover, "served there", {"color": SERVED, "opacity": 0.75}),
        _spots(at, asked, hover, "asked there", ring),
    ]


def crowd(at: Mapping[str, Point]) -> list[str]:
    """The most regions around one that are too close to each other for a map of the world, if three or more."""
    groups = [
        [other for other, (u, v) in at.items() if math.hypot((u - x) * math.cos(math.radians(y)), v - y) < CLOSE]
        for x, y in at.values()
    ]
    largest = max(groups, key=len, default=[])
    return largest if len(largest) >= 3 else []


def _inset(layout: dict[str, Any], at: Mapping[str, Point]) -> None:
    """A second map in the empty Pacific, of those who stand close together; page.js repeats all traces in it."""
    xs, ys = [x for x, _ in at.values()], [y for _, y in at.values()]
    middle, half = (min(xs) + max(xs)) / 2, max((max(xs) - min(xs)) / 2 + 0.1, ((max(ys) - min(ys)) / 2 + 0.06) * 1.2)
    height = (min(ys) + max(ys)) / 2
    frame = {"showgrid": False, "zeroline": False, "showticklabels": False, "showline": True, "mirror": True}
    layout["xaxis2"] = {**frame, "range": [middle - half, middle + half], "domain": [0.0, 0.25], "anchor": "y2"}
    layout["yaxis2"] = {
        **frame,
        "range": [height - half / 1.2, height + half / 1.2],
        "domain": [0.0, 0.42],
        "anchor": "x2",
    }
    layout["annotations"] += [{**name, "xref": "x2", "yref": "y2"} for name in labels(at, 0.25 * WIDTH / (2 * half))]
    layout["annotations"].append(
        {"text": "closer", "xref": "x2 domain", "yref": "y2 domain", "x": 0.03, "y": 0.98, "showarrow": False,
         "font": {"color": GREY}}
    )  # fmt: skip


def _spots(
    at: Mapping[str, Point], share: Mapping[str, float], hover: Sequence[str], name: str, marker: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": name, "text": hover, "hovertemplate": "%{text}<extra></extra>",
        "x": [short(at[region][0]) for region in at], "y": [short(at[region][1]) for region in at],
        "marker": {**marker, "size": [short(SPOT * math.sqrt(share[region])) for region in at], "sizemode": "diameter"},
    }  # fmt: skip


def answered(comparison: Comparison, policy: str) -> dict[str, dict[str, int]]:
    """Requests answered over all seeds: client region -> worker region -> count."""
    sums: dict[str, dict[str, int]] = {}
    for run in comparison.runs[policy]:
        for origin, row in run.detail.flows.items():
            target = sums.setdefault(origin, {})
            for worker, count in row.items():
                target[worker] = target.get(worker, 0) + count
    return sums


def curve(start: Point, end: Point) -> list[Point]:
    """A bow from start to end, bent to its left."""
    (x, y), (u, v) = start, end
    bow_x, bow_y = (x + u) / 2 - BEND * (v - y), (y + v) / 2 + BEND * (u - x)
    steps = [step / STEPS for step in range(STEPS + 1)]
    return [
        (
            (1 - t) ** 2 * x + 2 * t * (1 - t) * bow_x + t * t * u,
            (1 - t) ** 2 * y + 2 * t * (1 - t) * bow_y + t * t * v,
        )
        for t in steps
    ]


def labels(at: Mapping[str, Point], pixels: float = 210.0) -> list[dict[str, Any]]:
    """A name at every region, with a thin line to it, where it covers no other name and no other region.

    `pixels` make one map unit on a page of `WIDTH`: names keep clear of each other at least there.
    """
    taken: list[tuple[float, float, float, float]] = [
        (x * pixels - 9, -y * pixels - 9, x * pixels + 9, -y * pixels + 9) for x, y in at.values()
    ]
    made = []
    for name, (x, y) in sorted(at.items(), key=lambda item: -item[1][1]):
        half = 3.4 * len(name) + 4
        for reach, (dx, dy) in ((r, way) for r in range(26, 220, 12) for way in WAYS):
            left, top = x * pixels + dx * (reach + (half - 20) * abs(dx)), -y * pixels + dy * reach
            box = (left - half, top - 8, left + half, top + 8)
            if not any(box[0] < c and a < box[2] and box[1] < d and b < box[3] for a, b, c, d in taken):
                break
        taken.append(box)
        made.append(
            {"x": short(x), "y": short(y), "ax": round(left - x * pixels), "ay": round(top + y * pixels), "text": name,
             "showarrow": True, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": GREY, "standoff": 5,
             "font": {"size": 11}}
        )  # fmt: skip
    return made


WAYS: Final = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (-0.7, -0.7), (0.7, 0.7), (-0.7, 0.7))
"""Where a name may stand from its region, the best first; y grows downwards."""


def matrix(comparison: Comparison, policy: str, world: World) -> Figure:
    """Of what each region asked: the share that each region served."""
    counts = answered(comparison, policy)
    origins = [name for name in world.regions if name in counts]
    serving = {worker for row in counts.values() for worker in row}
    workers = [name for name in world.regions if name in serving]
    rows = [[100 * counts[o].get(w, 0) / (sum(counts[o].values()) or 1) for w in workers] for o in origins]
    return {
        "data": [{
            "type": "heatmap", "x": workers, "y": origins, "z": [[short(value) for value in row] for row in rows],
            "zmin": 0, "zmax": 100, "showscale": False, "xgap": 2, "ygap": 2, "texttemplate": "%{z:.0f}",
            "colorscale": [[0, "rgba(228,160,50,0.05)"], [0.3, "rgba(228,160,50,0.6)"], [1, SERVED]],
            "hovertemplate": "asked in %{y}, served in %{x}: %{z:.1f} %<extra></extra>",
        }],
        "layout": {
            "title": {"text": f"{policy}: % of a row's requests, by where they were served"},
            "yaxis": {"title": {"text": "asked in"}, "autorange": "reversed", "showgrid": False, "automargin": True},
            "xaxis": {"title": {"text": "served in"}, "showgrid": False, "automargin": True},
            "height": 190 + 26 * len(origins),
        },
    }  # fmt: skip


def main(path: str) -> None:
    """Write land.json from world-atlas' file."""
    rings = [ring for ring in decode(json.loads(Path(path).read_text())) if area(ring) >= SMALL]
    rings = [ring for ring in rings if min(y for _, y in ring) > SOUTH - 10]  # not Antarctica
    flat = [[round(10 * value) for point in ring for value in point] for ring in rings]
    source = "Natural Earth 1:110m land, public domain, from the npm package world-atlas 2.0.2 (ISC)"
    target = Path(__file__).with_name("land.json")
    target.write_text(json.dumps({"source": source, "rings": flat}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
