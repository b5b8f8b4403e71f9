"""The arithmetic of the measurements."""

import itertools
from pathlib import Path

import pytest

from policies.records import Curve
from workers.manifest import Latency
from workers.models import measure


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


def test_a_tensor_curve_meets_its_two_ends():
    curve = measure.tensor_curve({"1": Latency(2, 0, 0), "8": Latency(9, 0, 0), "32": Latency(33, 0, 0)})
    assert curve.base == pytest.approx(0.002)
    assert curve.base + 31 * curve.item == pytest.approx(0.033)


def test_a_batch_that_costs_nothing_more_has_no_item_cost():
    assert measure.tensor_curve({"1": Latency(2, 0, 0), "32": Latency(1.9, 0, 0)}).item == 0


def test_the_interval_matches_the_published_one():
    """Agresti and Coull 1998 give Wilson's interval for 15 of 20 as 0.531 to 0.888."""
    assert measure.wilson(15, 20) == pytest.approx((0.531, 0.888), abs=5e-4)
    low, high = measure.wilson(50, 50)
    assert 0.9 < low < high == 1


def test_a_file_is_described_by_its_bytes(tmp_path: Path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    described = measure.described(path)
    assert (described.file, described.bytes) == ("x.bin", 3)
    assert described.sha256.startswith("ba7816bf")  # FIPS 180-2, appendix B.1


def test_a_variant_is_recorded_by_its_marks(tmp_path: Path):
    path = tmp_path / "m.int8.onnx"
    path.write_bytes(b"abc")
    curve = Curve(base=0.001)
    made = measure.variant(
        path, "int8", "onnx", right=15, reference_right=18, asked=20, agreement=2 / 3,
        latency_ms={"1": Latency(1, 2, 3)}, curve=curve, max_batch=8, fidelity={"cosine": 0.999999},
    )  # fmt: skip
    assert (made.file, made.bytes, made.score, made.quality, made.agreement) == (
        "m.int8.onnx",
        3,
        0.75,
        0.83333,
        0.66667,
    )
    assert made.ci95 == measure.wilson(15, 20)
    assert made.fidelity == {"cosine": 1.0}
    assert (made.curve, made.max_batch, made.latency_ms["1"].p99) == (curve, 8, 3)


def test_the_host_says_what_it_is():
    host = measure.host()
    assert host.cpu
    assert host.threads == 1
    assert host.clock == "cpu"
