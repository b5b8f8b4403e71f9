"""A part writes what it knows at once; a variant that fails or comes too late costs only itself."""

import sys
import time

import pytest

torch = pytest.importorskip("torch")

from workers.bench import part  # noqa: E402
from workers.bench.meter import Sustained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LATER = 1e12


@pytest.fixture
def written(monkeypatch):
    """What was written; two seconds of measuring a row are left out."""
    monkeypatch.setattr(part.Meter, "sustained", lambda self, run, seconds=0.0: Sustained(1.0, None, None))
    lines = []
    return lines, lambda variant, found: lines.append((variant, found))


def test_the_limits_are_measured_first(written):
    lines, write = written
    assert part.measure("ceilings", [], part.TINY, LATER, write) == 0
    assert lines[0][1]["copy_bytes_per_s"] > 0
    assert set().union(*(found.get("operations_per_s", {}) for _, found in lines)) == {"bf16", "fp8", "int8"}


def test_a_variant_that_fails_is_written_down_and_the_next_is_tried(written):
    lines, write = written
    with torch.no_grad():
        assert part.measure("encoder", ["bf16-nonsense", "bf16-graph"], part.TINY, LATER, write) == 0
    failed = [found["failed"] for name, found in lines if "failed" in found]
    assert len(failed) == 1
    assert failed[0].startswith("ValueError: no variant 'bf16-nonsense'")
    assert any("rows" in found for name, found in lines if name == "bf16-graph")


def test_nothing_is_begun_when_time_is_up(written):
    lines, write = written
    with torch.no_grad():
        part.measure("decoder", ["bf16-graph"], part.TINY, time.monotonic() - 1, write)
    assert lines[-1] == ("bf16-graph", {"skipped": "out of time"})


def test_a_measurement_is_cut_when_time_is_up(written):
    lines, write = written
    assert part._tried("x", iter([{"rows": [1]}, {"rows": [2]}]), time.monotonic() - 1, write)
    assert [found for _, found in lines][:-1] == [{"begun": True}, {"rows": [1]}, {"cut": "after 0 s: out of time"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_nothing_large_is_begun(written):
    lines, write = written
    assert part.measure("ceilings", [], part.FULL, LATER, write) == part.NO_DEVICE
    assert "no CUDA device" in lines[0][1]["failed"]


def test_a_part_whose_libraries_are_missing_is_left_out(written, monkeypatch):
    lines, write = written
    monkeypatch.setitem(sys.modules, "workers.bench.front", None)
    assert part.measure("front", ["bf16"], part.TINY, LATER, write) == 0
    assert lines == [("bf16", {"skipped": "needs workers.bench.front, which is not installed here"})]
