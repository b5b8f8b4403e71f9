"""The map: its projection, its land, its flows."""

import math
from itertools import pairwise

import plotly.graph_objects as go
import pytest

from loadtests.simulator import atlas
from loadtests.simulator.statistics import gather
from tests.loadtests.simulator import specimens


def test_the_projection_keeps_areas():
    """A cell of one degree covers cos(latitude) of the one at the equator, on the sphere and on the map."""

    def cell(latitude: float) -> float:
        corners = [(0, latitude - 0.5), (1, latitude - 0.5), (1, latitude + 0.5), (0, latitude + 0.5)]
        return atlas.area([atlas.project(x, y) for x, y in corners])

    for latitude in (20, 50, 75):
        assert cell(latitude) / cell(0) == pytest.approx(math.cos(math.radians(latitude)), rel=0.002)
    assert atlas.project(0, 0) == (0, 0)


def inside(point, ring) -> bool:
    """Whether a ray to the east leaves the ring."""
    x, y = point
    crossings = [u + (y - v) / (b - v) * (a - u) > x for (u, v), (a, b) in pairwise(ring) if (v > y) != (b > y)]
    return sum(crossings) % 2 == 1


def test_there_is_land_where_there_is_and_none_at_sea():
    rings = list(atlas.land())
    for name, point in {"Iowa": (-95.9, 41.3), "Frankfurt": (8.7, 50.1), "Mumbai": (73.5, 19.1)}.items():
        assert any(inside(point, ring) for ring in rings), name
    for name, point in {"Atlantic": (-35, 35), "Pacific": (-150, 10), "Antarctica": (0, -80)}.items():
        assert not any(inside(point, ring) for ring in rings), name


def test_a_topology_is_decoded_arc_by_arc():
    topology = {
        "transform": {"scale": [0.5, 0.5], "translate": [10, 20]},
        "arcs": [[[0, 0], [2, 0]], [[0, 0], [0, 2], [2, -2]]],
        "objects": {"land": {"geometries": [{"arcs": [[[0, ~1]]]}]}},
    }
    assert atlas.decode(topology) == [[(10, 20), (11, 20), (11, 20), (10, 21), (10, 20)]]
    assert atlas.area(atlas.decode(topology)[0]) == 0.5


@pytest.fixture
def comparison():
    (made,) = gather(specimens.runs({"isochrone": 0.9}, seeds=2))
    return made


def test_flows_count_over_all_seeds_and_say_what_went_abroad(comparison):
    """Three regions ask 140 each and keep 100: 2 seeds, 2 x 120 of 840 leave."""
    assert atlas.answered(comparison, "isochrone")["us-central1"] == {
        "us-central1": 200, "europe-west4": 40, "asia-northeast1": 40,
    }  # fmt: skip
    figure = atlas.flows(comparison, "isochrone", specimens.world())
    go.Figure(figure)
    assert "29 %" in figure["layout"]["title"]["text"]
    hover = [text for trace in figure["data"] for text in trace.get("text", ())]
    assert sum("→" in text for text in hover) == 6
    assert "<b>us-central1</b><br>asked 33.3 %, served 33.3 %" in hover


def test_bows_of_both_directions_stay_apart():
    there, back = atlas.curve((0, 0), (1, 0)), atlas.curve((1, 0), (0, 0))
    assert there[0] == (0, 0)
    assert there[-1] == (1, 0)
    middle = len(there) // 2
    assert there[middle][1] > 0 > back[middle][1]


def test_names_cover_neither_each_other_nor_a_region():
    europe = {"europe-west1": (3.8, 50.4), "europe-west2": (-0.1, 51.5), "europe-west3": (8.7, 50.1), "e4": (6.8, 53.4)}
    made = atlas.labels({name: atlas.project(*at) for name, at in europe.items()})
    boxes = []
    for one in made:
        x, y = one["x"] * 210 + one["ax"], -one["y"] * 210 + one["ay"]
        half = 3.4 * len(one["text"])
        boxes.append((x - half, y - 7, x + half, y + 7))
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def test_the_matrix_is_in_percent_of_its_rows(comparison):
    figure = atlas.matrix(comparison, "isochrone", specimens.world())
    go.Figure(figure)
    for row in figure["data"][0]["z"]:
        assert sum(row) == pytest.approx(100, abs=0.01)
    assert figure["data"][0]["z"][0][0] == pytest.approx(100 / 1.4, abs=0.01)


def test_the_background_is_lines_that_never_leave_the_map():
    for trace in atlas.background():
        go.Scatter(trace)
        assert all(y is None or abs(y) <= atlas.project(0, 90)[1] for y in trace["y"])


def test_what_crosses_the_date_line_is_cut_there():
    """Chukotka: from 170 east over the line to 170 west."""
    halves = atlas.halves([(170, 65), (179, 66), (-175, 66), (-170, 67), (-175, 68), (175, 68), (170, 65)])
    assert len(halves) == 2
    for half in halves:
        assert all(abs(x - u) < 180 for (x, _), (u, _) in pairwise(half))
    assert {round(max(x for x, _ in half)) for half in halves} == {180, -170}
    assert atlas.halves([(0, 0), (1, 0), (1, 1), (0, 0)]) == [[(0, 0), (1, 0), (1, 1), (0, 0)]]
