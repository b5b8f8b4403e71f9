"""The arithmetic of the measurements."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from policies.records import Curve
from workers.accelerate import measure
from workers.accelerate.evaluate import Paper, compared
from workers.manifest import Latency


def test_latency_is_in_milliseconds_by_percentile():
    assert measure.latency([i / 1000 for i in range(101)]) == Latency(50.0, 90.0, 99.0)


def test_timed_leaves_the_warm_up_out():
    calls = itertools.count()
    took = measure.timed(lambda: next(calls), 0, fewest=5)
    assert len(took) == 5
    assert next(calls) == 8
    assert all(seconds >= 0 for seconds in took)


def test_the_least_disturbed_round_has_the_lowest_median():
    assert measure.least_disturbed([[3, 3, 3], [2, 1, 9], [2.5, 0.1, 2.5]]) == [2, 1, 9]


def stepping(seconds):
    """A clock that goes on by what the last run of so many items took; runs put it there."""
    state = {"now": 0.0}

    def prepared(rows):
        def run():
            state["now"] += seconds(rows)

        return run

    return prepared, lambda: state["now"]


def test_batches_double_until_throughput_stops_growing():
    prepared, clock = stepping(lambda rows: 0.001 * max(rows, 8))
    timing = measure.by_batch(prepared, 64, 0.05, clock)
    assert list(timing.latency_ms) == ["1", "2", "4", "8", "16", "32"]
    assert (timing.best, timing.largest) == (8, 32)
    assert timing.throughput == pytest.approx(1000)
    assert timing.latency_ms["16"].p99 == pytest.approx(16)


def test_one_size_that_gains_nothing_does_not_end_it():
    prepared, clock = stepping(lambda rows: 0.001 * (rows if rows <= 2 else 2))
    timing = measure.by_batch(prepared, 16, 0.05, clock)
    assert (timing.best, timing.largest) == (16, 16)


def test_batches_end_at_the_largest_allowed():
    prepared, clock = stepping(lambda rows: 0.001)
    timing = measure.by_batch(prepared, 8, 0.05, clock)
    assert list(timing.latency_ms) == ["1", "2", "4", "8"]
    assert timing.curve == Curve(base=0.001, item=0)


def test_a_curve_meets_its_two_ends():
    prepared, clock = stepping(lambda rows: 0.002 + 0.001 * rows)
    curve = measure.by_batch(prepared, 32, 0.05, clock).curve
    assert curve.base == pytest.approx(0.003)
    assert curve.seconds(items=32) == pytest.approx(0.034)


def test_where_nothing_is_batched_an_item_costs_what_one_alone_does():
    prepared, clock = stepping(lambda rows: 0.002)
    assert measure.by_batch(prepared, 1, 0.05, clock).curve == Curve(base=0.002, item=0.002)


def test_cost_and_effort_are_reckoned_from_throughput():
    assert measure.usd_per_1k(100, 3.6) == 0.01
    effort = measure.effort(50.0, 3.6, throughput=200, reference=100)
    assert (effort.seconds, effort.usd, effort.pays_after) == (50, 0.05, 10_000)
    for no_gain in (99, 102):
        assert measure.effort(50.0, None, throughput=no_gain, reference=100).pays_after is None


def test_a_file_is_described_by_its_bytes(tmp_path: Path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    described = measure.described(path)
    assert (described.file, described.bytes) == ("x.bin", 3)
    assert described.sha256.startswith("ba7816bf")  # FIPS 180-2, appendix B.1


def test_a_variant_is_recorded_by_its_papers(tmp_path: Path):
    path = tmp_path / "m.int8.onnx"
    path.write_bytes(b"abc")
    curve = Curve(base=0.001)
    right = np.arange(20) < 15
    quality = compared(Paper(np.arange(20), right), Paper(np.arange(20), np.arange(20) < 18))
    made = measure.variant(
        path, "int8", "onnx", quality=quality, latency_ms={"1": Latency(1, 2, 3)}, curve=curve, max_batch=8,
        throughput=7.0,
    )  # fmt: skip
    assert (made.file, made.bytes, made.score, made.quality, made.agreement) == ("m.int8.onnx", 3, 0.75, 0.83333, 1)
    assert (made.curve, made.max_batch, made.latency_ms["1"].p99, made.throughput) == (curve, 8, 3, 7)


def test_the_host_says_what_it_is():
    host = measure.host()
    assert host.cpu
    assert host.threads == 1
    assert host.clock == "cpu"
    assert host.cores
    assert "numpy" in host.software
