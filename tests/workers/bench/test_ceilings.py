import pytest

torch = pytest.importorskip("torch")

from workers.bench import ceilings  # noqa: E402


class Clock:
    """A meter on whose device everything takes half a second, and is done."""

    device = torch.device("cpu")

    def median(self, run):
        run()
        return 0.5


def test_a_copy_counts_what_is_read_and_what_is_written():
    assert ceilings.copy_rate(Clock(), 1000) == 4000


def test_a_product_counts_its_multiplications_and_additions():
    rates = dict(ceilings.matrix_rates(Clock(), (32, 64)))
    assert rates["bf16"] == 2 * 64**3 / 0.5
    assert set(rates) == {"bf16", "fp8", "int8"}


def test_a_format_without_a_product_says_why(monkeypatch):
    def refuse(side, device):
        raise RuntimeError("no such kernel\nwith a trace")

    monkeypatch.setitem(ceilings.PRODUCTS, "fp8", refuse)
    rates = dict(ceilings.matrix_rates(Clock(), (32,)))
    assert rates["fp8"] == "no such kernel"
    assert isinstance(rates["int8"], float)
