import random

import pytest

from policies.estimate import PRIOR_RTT, Overhead, RoundTrips, Speed


def test_the_first_round_trip_replaces_the_prior():
    rtt = RoundTrips()
    assert rtt.mean == PRIOR_RTT
    rtt.observe(0.02)
    assert (rtt.mean, rtt.jitter) == (0.02, 0.01)


def test_a_new_worker_starts_from_its_region():
    region = RoundTrips()
    region.observe(0.08)
    assert RoundTrips(region).mean == 0.08


def test_round_trips_converge():
    rng, rtt = random.Random(1), RoundTrips()
    for _ in range(500):
        rtt.observe(rng.uniform(0.09, 0.11))
    assert rtt.mean == pytest.approx(0.1, abs=0.005)
    assert rtt.jitter == pytest.approx(0.005, abs=0.003)  # mean absolute deviation of uniform(+-10 ms) is 5 ms


def test_speed_learns_the_factor_and_what_error_is_left():
    rng, speed = random.Random(1), Speed()
    for _ in range(300):
        speed.observe(2.0 * rng.uniform(0.95, 1.05))
    assert speed.factor == pytest.approx(2.0, rel=0.05)
    assert 0.02 <= speed.error < 0.06


def test_speed_ignores_nonsense_and_is_bounded():
    speed = Speed()
    for ratio in (0.0, -1.0, float("inf"), float("nan")):
        speed.observe(ratio)
    assert speed.samples == 0
    for _ in range(1000):
        speed.observe(1e6)
    assert speed.factor < 5.0


def test_overhead_is_never_negative():
    overhead = Overhead()
    overhead.observe(-1.0)
    assert overhead.mean == 0.0
