"""What the report draws: valid for plotly, true to the runs, without colours that only one theme could read."""

import math

import msgspec
import plotly.graph_objects as go
import pytest

from loadtests.simulator import charts
from loadtests.simulator.result import Bin
from loadtests.simulator.statistics import Limit, gather
from loadtests.simulator.world import Fault, FaultKind
from tests.loadtests.simulator import specimens

POLICIES = {"isochrone": 0.9, "prequal": 0.8, "clairvoyant": 0.99}
COLOURS = charts.palette(POLICIES)


@pytest.fixture
def comparison():
    (made,) = gather(specimens.runs(POLICIES, seeds=3))
    return msgspec.structs.replace(made, limit=Limit(1.0, 0.08, 0.97, 0.09))


def named(figure, name):
    (trace,) = [trace for trace in figure["data"] if trace.get("name") == name]
    return trace


def test_every_figure_is_one_that_plotly_takes(comparison):
    world = specimens.world(faults=(Fault(kind=FaultKind.OUTAGE, at=15, target=("us-*",)),))
    for figure in (
        charts.plane(comparison, COLOURS),
        charts.heat(comparison, "by_class"),
        charts.heat(comparison, "by_region"),
        charts.reliability(comparison, "isochrone", COLOURS),
        charts.waiting(comparison, world, COLOURS),
        charts.waiting_by_region(comparison, "isochrone", world),
    ):
        go.Figure(figure)


def test_a_policy_that_another_beats_in_both_is_not_on_the_front():
    runs = [
        specimens.run("cheap", attainment=0.7, cost_per_1k=0.05),
        specimens.run("good", attainment=0.9, cost_per_1k=0.10),
        specimens.run("bad", attainment=0.6, cost_per_1k=0.20),
        specimens.run("equal", attainment=0.9, cost_per_1k=0.11),
        specimens.run("free", attainment=0.0, cost_per_1k=math.inf),
        specimens.run("clairvoyant", attainment=1.0, cost_per_1k=0.01),
    ]
    (comparison,) = gather(runs)
    assert charts.front(comparison) == ["cheap", "good"]
    line = named(charts.plane(comparison, charts.palette(comparison.runs)), "Pareto front")
    assert (line["x"], line["y"]) == ([0.05, 0.10], [70, 90])


def test_the_plane_carries_intervals_and_the_bound(comparison):
    figure = charts.plane(comparison, COLOURS)
    half = comparison.interval("prequal", "attainment").half
    assert named(figure, "prequal")["error_y"]["array"] == [pytest.approx(half * 100, rel=1e-3)]
    assert named(figure, "clairvoyant")["marker"]["symbol"] == "diamond-open"
    assert (named(figure, "fluid bound")["x"], named(figure, "fluid bound")["y"]) == ([0.08], [100])


def test_what_nobody_met_has_no_place_on_the_plane():
    (comparison,) = gather([specimens.run("isochrone"), specimens.run("lost", attainment=0.0, cost_per_1k=math.inf)])
    names = [trace["name"] for trace in charts.plane(comparison, charts.palette(comparison.runs))["data"]]
    assert "isochrone" in names
    assert "lost" not in names


def test_a_sweep_has_a_panel_per_combination_of_the_rest():
    runs = []
    for load in (0.5, 0.7, 0.95):
        for queue in ("fifo", "edf"):
            runs += specimens.runs(
                {"isochrone": 1.3 - load, "prequal": 0.5}, case={"serving.queue": queue, "load": load}
            )
    comparisons = gather(runs)
    assert charts.axes(comparisons) == ("load", ["serving.queue"])
    figure = charts.sweep(comparisons, "attainment", charts.palette(["isochrone", "prequal"]))
    go.Figure(figure)
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["<b>FIFO queue</b>", "<b>EDF queue</b>"]
    ours = [trace for trace in figure["data"] if trace["name"] == "isochrone"]
    assert [trace["x"] for trace in ours] == [[0.5, 0.7, 0.95]] * 2
    assert ours[0]["y"] == [pytest.approx(value, abs=1.1) for value in (80, 60, 35)]


def test_a_panel_of_one_point_is_left_out_beside_others():
    runs = [
        run
        for load in (0.5, 0.7, 0.95)
        for run in specimens.runs({"isochrone": 0.9}, case={"seconds": 12, "load": load})
    ]
    runs += specimens.runs({"isochrone": 0.9}, case={"seconds": 40, "load": 0.7})
    figure = charts.sweep(gather(runs), "attainment", charts.palette(["isochrone"]))
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["<b>12 s long</b>"]


def test_many_policies_become_a_table_the_best_on_top():
    policies = {f"p{number:02}": 0.3 + number / 40 for number in range(charts.LINES + 1)}
    comparisons = gather(run for name in ("a", "b") for run in specimens.runs(policies, case={"case": name}))
    for figure in ("attainment", "cost_per_1k"):
        go.Figure(charts.crossing(comparisons, figure))
    (trace,) = charts.crossing(comparisons, "attainment")["data"]
    assert trace["x"] == ["a", "b"]
    assert trace["y"][0] == "p10"
    assert trace["z"][0] == [pytest.approx(55, abs=1), pytest.approx(55, abs=1)]


def test_named_cases_run_along_the_axis_when_no_number_varies():
    comparisons = gather(run for name in ("a", "b") for run in specimens.runs({"isochrone": 0.9}, case={"case": name}))
    assert charts.axes(comparisons) == ("case", [])
    go.Figure(charts.sweep(comparisons, "cost_per_1k", charts.palette(["isochrone"])))


def test_heat_maps_stand_in_the_worlds_order_best_policy_first(comparison):
    figure = charts.heat(comparison, "by_class", ["tight", "loose"])
    (trace,) = figure["data"]
    assert trace["x"] == ["tight", "loose"]
    assert trace["y"] == ["clairvoyant", "isochrone", "prequal"]
    assert trace["z"][0] == [80, 100]


def test_bins_of_seeds_are_pooled_by_their_requests():
    pooled = charts.pooled([Bin(0.92, 0.8, 100), Bin(0.98, 1.0, 300), Bin(0.55, 0.5, 10), Bin(1.0, 1.0, 100)])
    assert [one.requests for one in pooled] == [10, 500]
    assert pooled[1].observed == pytest.approx((80 + 300 + 100) / 500)
    assert pooled[1].predicted == pytest.approx((92 + 294 + 100) / 500)


def test_wilsons_interval_is_the_books():
    """8 of 10: 0.490 to 0.943 (Newcombe 1998, method 3)."""
    down, up = charts.wilson(0.8, 10)
    assert 0.8 - down == pytest.approx(0.490, abs=1e-3)
    assert 0.8 + up == pytest.approx(0.943, abs=1e-3)
    assert charts.wilson(1.0, 50)[1] == pytest.approx(0, abs=1e-12)


def test_a_policy_that_predicts_nothing_has_an_empty_diagram():
    (comparison,) = gather([specimens.run(reliability=())])
    figure = charts.reliability(comparison, "isochrone", COLOURS)
    go.Figure(figure)
    assert named(figure, "isochrone")["x"] == []


def test_what_waits_is_summed_over_regions_and_meant_over_seeds():
    runs = [specimens.run(seed=seed, queues={"a": (0.0, 4.0 * seed), "b": (0.0, 2.0)}) for seed in (1, 2)]
    (comparison,) = gather(runs)
    world = specimens.world()
    assert named(charts.waiting(comparison, world, COLOURS), "isochrone")["y"] == [0.5, 8.0]
    (trace,) = charts.waiting_by_region(comparison, "isochrone", world)["data"]
    assert trace["customdata"] == [[0, 6], [0, 2]]
    assert trace["z"][0][1] == pytest.approx(math.log10(7), rel=1e-4)


def test_the_warm_ups_end_and_faults_are_marked(comparison):
    world = specimens.world(faults=(Fault(kind=FaultKind.SLOW, at=15, target=("us-*",)),))
    assert [shape["x0"] for shape in charts.waiting(comparison, world, COLOURS)["layout"]["shapes"]] == [10, 15]


def test_colours_are_stable_and_differ():
    colours = charts.palette(["isochrone", "p2c", "gorgo", "prequal"])
    assert colours["isochrone"] == charts.COLOURS["isochrone"]
    assert len(set(colours.values())) == 4
    assert charts.short(math.inf) is None
    assert charts.short(0.123456789) == 0.12346
