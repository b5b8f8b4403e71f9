"""A manifest in words."""

import msgspec
import pytest

from workers.accelerate import summary
from workers.manifest import Absent, Effort, Energy, Verdict, packaged, read


@pytest.fixture
def manifest():
    """The bundled digits, with figures that its own build does not measure."""
    found = read(packaged("digits"))
    fp32, int8 = found.variants
    int8 = msgspec.structs.replace(
        int8, quality_ci95=(0.995, 1.0), memory_bytes=70_000_000, throughput=90_000.0, cost_per_1k=0.0000031,
        energy=Energy(0.0001, "estimated", 10.0), effort=Effort(3.2, None, 12_345), load=5.0,
        verdict=Verdict(served=False, reason="a whim", by="fp32"),
    )  # fmt: skip
    host = msgspec.structs.replace(found.host, cores=2)
    return msgspec.structs.replace(found, variants=(fp32, int8), host=host, absent=(Absent("fp8", "no such card"),))


def test_a_row_has_a_cell_for_every_head(manifest):
    for row in summary.rows(manifest):
        assert len(row) == len(summary.HEAD)
    cells = dict(zip(summary.HEAD, summary.rows(manifest)[1], strict=True))
    assert cells["95 %"] == "0.995 to 1.000"
    assert cells["mJ/item"] == "~0.1"
    assert cells["pays after"] == "12,345"
    assert cells["items/s"] == "90,000"
    assert cells["served"] == "no"


def test_what_was_not_measured_is_empty(manifest):
    cells = dict(zip(summary.HEAD, summary.rows(manifest)[0], strict=True))
    assert cells["memory, MB"] == cells["mJ/item"] == cells["$ per 1,000"] == cells["made in, s"] == ""


def test_the_text_says_what_is_not_there_and_what_to_doubt(manifest):
    text = summary.text(manifest)
    assert "int8 is not served: a whim" in text
    assert "no fp8: no such card" in text
    assert "~ energy is estimated: CPU seconds times 10 W a core" in text
    assert "the machine was busy (load above its 2 cores)" in text
    assert "accuracy on 719 items of scikit-learn load_digits" in text


def test_the_best_batch_has_the_highest_throughput(manifest):
    assert summary.best(manifest.variants[0]) == 32


def test_columns_line_up():
    assert summary.aligned(("a", "number"), [("long name", "1")]) == "a          number\nlong name       1"
