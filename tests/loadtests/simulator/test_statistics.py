"""Seeds made into figures: intervals, pairing, JSON of the issue's shape, tables."""

import io
import json
import math
import random

import msgspec
import pytest
from rich.console import Console

from loadtests.simulator import statistics
from loadtests.simulator.result import Interval
from loadtests.simulator.statistics import FIGURES, Limit, document, gather, interval, key
from tests.loadtests.simulator import specimens


def test_the_interval_is_students():
    """By hand: mean 3, deviation sqrt(2.5), t(4, 0.975) = 2.7764 from the tables."""
    one = interval([1, 2, 3, 4, 5])
    assert one.mean == 3
    assert one.half == pytest.approx(2.7764 * math.sqrt(2.5 / 5), rel=1e-4)


def test_nineteen_in_twenty_intervals_hold_the_mean():
    """N = 2,000 intervals of R = 5 draws: the share that covers is binomial, sd 0.5 points; four are granted."""
    rng = random.Random(7)
    held = 0
    for _ in range(2_000):
        one = interval([rng.gauss(10, 3) for _ in range(5)])
        held += abs(one.mean - 10) <= one.half
    assert held / 2_000 == pytest.approx(0.95, abs=0.02)


def test_undefined_figures_do_not_count_and_infinite_ones_have_no_interval():
    assert interval([math.nan, 2.0, 4.0]).mean == 3
    assert interval([2.0]) == Interval(2.0, None)
    assert interval([1.0, math.inf]) == Interval(math.inf, None)
    assert math.isnan(interval([math.nan]).mean)


def test_pairing_takes_the_weather_out_of_the_difference():
    (case,) = gather(specimens.runs({"isochrone": 0.9, "prequal": 0.8}, seeds=5, spread=0.05))
    own, difference = case.interval("prequal", "attainment"), case.difference("prequal", "attainment")
    assert difference.mean == pytest.approx(-0.1)
    assert own.half > 0.01
    assert difference.half < 1e-9
    assert case.difference("isochrone", "attainment", "prequal").mean == pytest.approx(0.1)


def test_runs_may_come_in_any_order_and_unpaired_seeds_are_left_out():
    runs = specimens.runs({"isochrone": 0.9, "prequal": 0.8}, seeds=3)
    runs.append(specimens.run("isochrone", 4, attainment=0.0))
    random.Random(1).shuffle(runs)
    (case,) = gather(runs)
    assert case.seeds == (1, 2, 3)
    assert all([run.seed for run in of_policy] == [1, 2, 3] for of_policy in case.runs.values())
    assert case.mean("isochrone", "attainment") == pytest.approx(0.9, abs=0.01)


def test_policies_without_a_seed_in_common_cannot_be_compared():
    with pytest.raises(ValueError, match="no seed was run under all of isochrone, prequal"):
        gather([specimens.run("isochrone", 1), specimens.run("prequal", 2)])


def test_the_document_has_the_shape_that_was_asked_for():
    (case,) = gather(specimens.runs({"isochrone": 0.9, "prequal": 0.8}))
    result = json.loads(json.dumps(document([case])))
    assert result["scenario"] == "made-up"
    assert result["seeds"] == 4
    assert set(result["policies"]) == set(result["intervals"]) == {"isochrone", "prequal"}
    for row in result["policies"].values():
        assert set(row) == {
            "attainment", "cost_per_1k", "fleet_cost_per_1k", "miss_rate_accepted", "accepted_share", "p50_s",
            "p99_s", "herd_index", "jain", "rejected", "decision_us",
        }  # fmt: skip
        assert all(isinstance(value, float) for value in row.values())
    assert result["paired"]["reference"] == "isochrone"
    assert result["paired"]["policies"]["prequal"]["attainment"]["mean"] == pytest.approx(-0.1)
    assert "bound" not in result


def test_what_is_varied_becomes_cases_of_the_same_shape():
    runs = [run for load in (0.5, 0.7) for run in specimens.runs({"isochrone": 1.2 - load}, case={"load": load})]
    limits = {("made-up", key({"load": 0.7})): Limit(1.0, 0.05, 0.9, 0.06)}
    result = json.loads(json.dumps(document(gather(runs, limits))))
    assert [case["case"] for case in result["cases"]] == [{"load": 0.5}, {"load": 0.7}]
    assert set(result["cases"][0]) >= {"scenario", "seeds", "policies"}
    assert [case.get("bound") for case in result["cases"]] == [
        None,
        {"attainment": 1.0, "cost_per_1k": 0.05, "steady_attainment": 0.9, "steady_cost_per_1k": 0.06},
    ]


def test_an_infinite_cost_is_null_in_json_and_a_dash_in_the_table():
    (case,) = gather(specimens.runs({"isochrone": 0.0}, cost_per_1k=math.inf, spread=0))
    result = json.loads(json.dumps(document([case])))
    assert result["policies"]["isochrone"]["cost_per_1k"] is None
    assert statistics.cells(case, "isochrone")[statistics.COLUMNS.index("$ per 1k")] == "-"


def test_the_table_ranks_by_attainment_and_names_the_bound():
    (case,) = gather(specimens.runs({"prequal": 0.8, "isochrone": 0.9, "clairvoyant": 0.99}))
    case = msgspec.structs.replace(case, limit=Limit(1.0, 0.0801, 0.97, 0.09))
    assert statistics.ranked(case) == ["clairvoyant", "isochrone", "prequal"]
    console = Console(file=io.StringIO(), width=10_000)
    console.print(statistics.table(case))
    text = console.file.getvalue()
    assert text.index("clairvoyant") < text.index("prequal") < text.index("fluid bound") < text.index("fluid, steady")
    assert "-10.0 ± 0.0" in text
    assert "0.0801" in text
    assert len(statistics.cells(case, "prequal")) == len(statistics.COLUMNS)
    assert tuple(FIGURES) == tuple(specimens.figures().__struct_fields__)


def test_one_seed_claims_no_interval():
    (case,) = gather([specimens.run(attainment=0.875)])
    assert statistics.cells(case, "isochrone")[0] == "87.5"
    assert statistics.plus_minus(Interval(0.5, 0.25), 2) == "0.50 ± 0.25"
    assert statistics.signed(Interval(0.5, None), 1) == "+0.5"
    assert statistics.signed(Interval(-0.5, None), 1) == "-0.5"


def test_labels_read_as_words():
    assert statistics.in_words("control.heartbeat_s", 5.0) == "heartbeat 5 s"
    assert statistics.in_words("serving.queue", "edf") == "EDF queue"
    assert statistics.in_words("seconds", 40.0) == "40 s long"
    assert statistics.in_words("load", 0.7) == "load 0.7"
    assert [statistics.heading(one) for one in ("control.heartbeat_s", "serving.queue", "seconds", "case")] == [
        "heartbeat, s", "queue", "length, s", "case",
    ]  # fmt: skip
    assert statistics.in_words("case", "outage") == "outage"
    (comparison,) = gather(specimens.runs({"isochrone": 0.9}, case={"load": 0.7, "control.heartbeat_s": 1}))
    assert comparison.name == "load 0.7, heartbeat 1 s"
