"""The bench's own parts, and one small run of it with real workers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import uvloop
from click.testing import CliRunner

from loadtests.live import bench_batch, wide
from loadtests.live.bench_batch import FAMILIES, OURS, RULES, Measured
from workers import config

MEASURED = Measured(fixed=0.013, each=0.0015, noise=0.05, alone=0.016, capacity=450.0)


def test_every_rule_is_one_that_workers_know() -> None:
    for rule in RULES.values():
        config.batching(rule)
    assert set(FAMILIES) == {name.partition(":")[0] for name in RULES}


def test_deadlines_are_mixed_and_follow_the_engine() -> None:
    demand = MEASURED.demand(MEASURED.capacity, MEASURED.alone)
    full = wide.MAX_BATCH / MEASURED.capacity
    assert [kind.total_s for kind in demand.classes] == pytest.approx([2.5 * 0.016, 2 * full, 8 * full])
    planned = demand.plan(100.0, 3.0, seed=1)[0]
    message = bench_batch.write(planned)
    told = float(dict(message.headers)["x-deadline-ms"]) / 1e3
    assert planned.kind.total_s is not None
    assert told == pytest.approx(planned.kind.total_s - bench_batch.ON_THE_WAY, abs=1e-4)


def test_the_curve_is_found_in_the_timings_of_the_answers() -> None:
    pairs = [(items, (0.010 + 0.002 * items) * factor) for items in (1, 4, 32) for factor in (0.9, 1.0, 1.1)]
    fixed, each, noise = bench_batch.fitted(pairs)
    assert (fixed, each) == pytest.approx((0.010, 0.002))
    assert noise == pytest.approx(0.08, abs=0.01)


def test_a_line_has_medians_and_of_the_delays_the_best() -> None:
    goodput = {name: [1.0, 3.0, 2.0] for name in ("asked", *RULES)} | {
        "fixed_delay:2": [5.0, 4.0, 6.0],
        OURS: [10.0, 4.0, 9.0],
    }
    line = bench_batch.row(0.8, goodput)
    assert [line[family] for family in ("load", *FAMILIES)] == [0.8, 9.0, 2.0, 2.0, 5.0]
    assert (line["fixed_delay_ms"], line["ratio_fixed_delay"]) == (2.0, 1.5)
    assert line["min_max"][OURS] == [4.0, 10.0]


def test_in_virtual_time_slack_is_ahead_where_it_is_crowded_and_not_behind_where_it_is_not() -> None:
    rules = {name: RULES[name] for name in (OURS, "none", "fixed_window", "fixed_delay:0")}
    loads = (0.3, 1.3)
    quiet, crowded = bench_batch.virtually(MEASURED, loads, 1, 1500, lambda: None, rules)
    assert quiet[OURS][0] > 0.99 * max(quiet[name][0] for name in rules)
    assert crowded[OURS][0] > 1.05 * max(crowded[name][0] for name in rules if name != OURS)
    assert crowded[OURS][0] < crowded["asked"][0] == pytest.approx(1.3 * MEASURED.virtual_capacity, rel=0.1)


@pytest.mark.slow
def test_by_the_clock_workers_that_differ_in_the_rule_alone_are_sent_the_same(tmp_path: Path) -> None:
    manifest = wide.build(tmp_path, width=256, layers=2)
    rules = {name: RULES[name] for name in (OURS, "fixed_delay:0")}
    with bench_batch.Fleet(manifest, rules) as fleet:
        measured = uvloop.run(bench_batch.measure(fleet.ports[OURS]))
        assert min(measured) > 0
        calm = measured._replace(capacity=10.0, alone=4.0)  # budgets of many seconds: all are in time
        (goodput,) = bench_batch.by_the_clock(fleet.ports, calm, [3.0], 1, 1.0, lambda: None)
    assert goodput.keys() == {"asked", *rules}
    assert goodput[OURS] == goodput["fixed_delay:0"] == goodput["asked"]
    assert goodput[OURS][0] > 10
    assert all(map(math.isfinite, measured))


@pytest.mark.parametrize("options", [["--seeds", "0"], ["--curve", "8"], ["--curve", "8,x"], ["--curve", "0,1"]])
def test_options_that_cannot_be_are_refused(options: list[str]) -> None:
    assert CliRunner().invoke(bench_batch.main, options).exit_code == 2


def test_a_told_curve_is_played_in_virtual_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_batch, "RESULT", tmp_path / "bench" / "batch.json")
    monkeypatch.setattr(bench_batch, "VIRTUAL_REQUESTS", 200)
    done = CliRunner().invoke(bench_batch.main, ["--curve", "8,0.5", "--loads", "0.5", "--virtual-seeds", "1"])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "bench" / "batch.json").read_text())
    assert (told["source"], told["loads"]) == ("virtual", told["virtual"])
    (line,) = told["loads"]
    assert line["isochrone"] >= max(line[family] for family in FAMILIES)
    assert told["capacity_per_s"]["virtual"] == pytest.approx(32 / 0.024)


def test_the_result_goes_to_the_build_folder() -> None:
    assert Path("build/bench/batch.json") == bench_batch.RESULT
