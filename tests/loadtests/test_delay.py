"""Delays as measured. That two legs make a round trip is `simulator/test_wan.py`'s."""

import random
import statistics

import pytest

from loadtests.delay import Delay


def test_no_leg_is_shorter_than_half_the_shortest_round_trip():
    delay = Delay(80, 90, 4, random.Random(1), spike_share=0.0)
    drawn = [delay.draw() for _ in range(20_000)]
    assert min(drawn) >= 0.040
    assert statistics.fmean(drawn) == pytest.approx(delay.mean, rel=0.005)


def test_equal_seeds_draw_equal_delays():
    one, other, third = (Delay(10, 12, 1, random.Random(seed)) for seed in (1, 1, 2))
    drawn = [one.draw() for _ in range(50)]
    assert [other.draw() for _ in range(50)] == drawn
    assert [third.draw() for _ in range(50)] != drawn


def test_a_way_without_excess_is_even():
    delay = Delay(100, 100, 0, random.Random(1), spike_share=0.0)
    assert {delay.draw() for _ in range(100)} == {0.05}
