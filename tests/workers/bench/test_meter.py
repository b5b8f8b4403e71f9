"""Counts and energy are exact where the work and the counter are made up; seconds are the clock's."""

import pytest

torch = pytest.importorskip("torch")

from workers.bench.meter import Meter  # noqa: E402
from workers.devices import Reading  # noqa: E402


class Card:
    """A counter that one run raises by two joules."""

    def __init__(self):
        self.runs = 0

    def run(self):
        self.runs += 1

    def read(self):
        return Reading(0, 0, None, None, None, joules=2.0 * self.runs)


def test_energy_per_run_is_the_counters_difference():
    card = Card()
    found = Meter(torch.device("cpu"), card).sustained(card.run, seconds=0.01)
    assert found.joules == pytest.approx(2.0)
    assert found.watts == pytest.approx(2.0 / found.seconds)


def test_without_a_counter_energy_is_unknown():
    found = Meter(torch.device("cpu")).sustained(lambda: None, seconds=0.01)
    assert (found.joules, found.watts) == (None, None)
    assert found.seconds > 0


def test_the_first_run_does_not_count():
    runs = []
    Meter(torch.device("cpu")).median(lambda: runs.append(None), runs=4)
    assert len(runs) == 5
