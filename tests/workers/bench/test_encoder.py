import pytest

torch = pytest.importorskip("torch")

from workers.bench import encoder  # noqa: E402
from workers.bench.meter import Meter, Sustained  # noqa: E402


class Quick(Meter):
    """Runs once; seconds as told by batch, so that the curve is known."""

    def __init__(self, seconds):
        super().__init__(torch.device("cpu"))
        self._seconds = iter(seconds)

    def median(self, run, runs=1):
        run()
        return 1.0

    def sustained(self, run, seconds=0):
        return Sustained(next(self._seconds), None, None)


def measured(name, seconds, batches=(1, 2, 4)):
    findings = {"rows": []}
    with torch.no_grad():
        for found in encoder.Bench(Quick(seconds), encoder.TINY, batches).measure(name):
            findings["rows"] += found.get("rows", [])
            findings |= {key: value for key, value in found.items() if key != "rows"}
    return findings


def test_batches_grow_until_throughput_does_not():
    found = measured("bf16-graph", [1.0, 1.0, 1.99])
    assert [row["batch"] for row in found["rows"]] == [1, 2, 4]
    found = measured("bf16-graph", [1.0, 1.99, 1.0])
    assert [row["batch"] for row in found["rows"]] == [1, 2]


def test_the_same_weights_have_the_reference_s_vectors():
    found = measured("bf16-graph", [1.0, 1.0, 1.0])
    assert found["cosine"] == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        bench = encoder.Bench(Quick([]), encoder.TINY, (1,))
        assert found["weights_bytes"] == 2 * bench.describe()["parameters"]


def test_work_is_that_of_the_products_and_of_attention():
    shape = encoder.Shape(layers=1, hidden=8, heads=1, length=4)
    products = 2 * 4 * (8 * 24 + 8 * 8 + 2 * 8 * 32)  # tokens x (qkv, out, up and down)
    attention = 2 * 2 * 4 * 4 * 8  # scores and mixing
    assert shape.flops(1) == products + attention
    assert shape.flops(3) == 3 * shape.flops(1)
