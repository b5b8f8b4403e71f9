"""Joules: counters that are differenced, and an estimate that says what it is."""

import itertools

import pytest

from workers.accelerate import energy
from workers.accelerate.energy import Counter
from workers.devices import Reading
from workers.manifest import Energy


def clock(step=0.5):
    ticks = itertools.count(0.0, step)
    return lambda: next(ticks)


def test_a_counter_is_differenced_and_divided_by_items():
    """The clock is read before the first run and before each: three of 8 items, 64 J between the readings."""
    joules = iter([100.0, 164.0])
    found = energy.counted(Counter("rapl", lambda: next(joules)), lambda: None, 8, clock())
    assert found == Energy(joules=2.667, source="rapl", watts=32.0)


@pytest.mark.parametrize("readings", [(5.0, 5.0), (9.0, 1.0), (None, 1.0)])
def test_a_counter_that_stands_still_or_went_round_says_nothing(readings):
    joules = iter(readings)
    assert energy.counted(Counter("nvml", lambda: next(joules)), lambda: None, 1, clock()) is None


def test_a_card_has_a_counter():
    class Card:
        def read(self):
            return Reading(0, 0, None, None, None, 42.0)

    counter = energy.of_card(Card())
    assert (counter.source, counter.joules()) == ("nvml", 42.0)


def test_rapl_is_read_where_the_kernel_shows_it(tmp_path):
    assert energy.rapl(tmp_path) is None
    for package, joules in (("intel-rapl:0", 3_000_000), ("intel-rapl:1", 500_000)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "energy_uj").write_text(f"{joules}\n")
    counter = energy.rapl(tmp_path)
    assert counter is not None
    assert (counter.source, counter.joules()) == ("rapl", 3.5)


def test_an_estimate_is_called_one():
    assert energy.estimated(0.002) == Energy(joules=0.02, source="estimated", watts=10.0)
