import math

import numpy as np
import pytest

from loadtests.arrivals import Arrivals, Burst, Day, Origin, Process, gap_table, moments
from loadtests.sizes import fitted

ONE = {"here": Origin()}
POISSON = Arrivals()


def drawn(arrivals=POISSON, rate=1000.0, seconds=20.0, *, origins=ONE, bursts=(), day=None, seed=1):
    return moments(arrivals, bursts, day, rate, seconds, origins, np.random.default_rng(seed))


def cv(at):
    gaps = np.diff(at)
    return gaps.std() / gaps.mean()


@pytest.mark.parametrize(
    ("arrivals", "expected", "within"),
    [
        (POISSON, 1.0, 0.05),
        (Arrivals(process=Process.GAMMA, cv=1.5), 1.5, 0.1),
        (Arrivals(process=Process.GAMMA, cv=4), 4.0, 0.6),
        (Arrivals(process=Process.EVEN), 0.0, 1e-6),
        (Arrivals(process=Process.FITTED, like="azure-conversation"), 1.083, 0.1),
        (Arrivals(process=Process.FITTED, like="azure-code"), 13.15, 3.0),
    ],
)
def test_gaps_vary_as_they_should(arrivals, expected, within):
    """60,000 gaps; the heavier their tail the less sure their deviation is."""
    at = drawn(arrivals, seconds=60.0).at
    assert cv(at) == pytest.approx(expected, abs=within)
    assert np.all(np.diff(at) >= 0)
    assert at[0] >= 0
    assert at[-1] < 60


@pytest.mark.parametrize("process", [Process.POISSON, Process.GAMMA])
def test_the_rate_is_met_from_the_first_moment_on(process):
    """Over 400 seeds, the first tenth of the time holds a tenth of the requests: a process that began with an arrival,
    or always after a whole gap, would be off by a request or more of the 10 that are due."""
    arrivals = Arrivals(process=process, cv=3.0 if process is Process.GAMMA else 1.0)
    early = [np.count_nonzero(drawn(arrivals, rate=10, seconds=10, seed=seed).at < 1) for seed in range(400)]
    # The count's own deviation is about 3.2 (Poisson) and 8 (cv 3); over 400 runs 0.16 and 0.4.
    assert np.mean(early) == pytest.approx(10, abs=1.6 if process is Process.GAMMA else 0.64)


def test_even_arrivals_of_two_origins_interleave():
    at = drawn(Arrivals(process=Process.EVEN), rate=4, seconds=2, origins={"a": Origin(), "b": Origin()})
    assert at.at.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
    assert at.origin.tolist() == [0, 1] * 4


def test_an_origin_without_a_share_sends_nothing():
    assert set(drawn(origins={"a": Origin(0), "b": Origin(1)}).origin.tolist()) == {1}
    assert len(drawn(origins={"a": Origin(1), "b": Origin(1)}, rate=0.0).at) == 0


def test_a_day_keeps_the_mean_and_moves_the_peak():
    day = Day(length_s=24, depth=0.5, peak_hour=12)
    at = drawn(day=day, seconds=24.0).at
    counts = np.bincount(at.astype(int), minlength=24) / 1000
    assert counts.sum() == pytest.approx(24, rel=0.03)
    assert counts[11:13].mean() == pytest.approx(1.5, abs=0.1)
    assert (counts[0] + counts[23]) / 2 == pytest.approx(0.5, abs=0.1)


def test_grown_is_the_integral_of_factor():
    day = Day(length_s=100, depth=0.7, peak_hour=18, starts_utc_hour=5)
    for end in (1, 30, 70):
        clock = np.linspace(0, end, 2001)
        by_hand = np.trapezoid(day.factor(clock, 33), clock)
        assert day.grown(np.array([end]), 33) == pytest.approx([by_hand], abs=1e-4)


def test_a_burst_multiplies_the_load_of_its_origins_while_it_lasts():
    crowd = Burst(at=5, lasts=5, factor=5, origins=("a",))
    all_of = drawn(bursts=(crowd,), seconds=15.0, origins={"a": Origin(), "b": Origin()})
    at, here = all_of.at, all_of.origin == 0
    inside = (at >= 5) & (at < 10)
    # 500 a second each: 2,500 usual ones in five seconds, 10,000 extra; four standard errors are 4 % and 8 %.
    assert np.count_nonzero(inside & here) == pytest.approx(12_500, rel=0.04)
    assert np.count_nonzero(inside & ~here) == pytest.approx(2_500, rel=0.08)
    assert set(all_of.burst[inside & here].tolist()) == {-1, 0}
    assert set(all_of.burst[~inside].tolist()) == {-1}


def test_a_burst_after_the_end_is_none():
    assert set(drawn(bursts=(Burst(at=30, lasts=5, factor=9),)).burst.tolist()) == {-1}


def test_gaps_of_a_fit_have_mean_one():
    levels, gaps = gap_table("azure-code")
    assert np.trapezoid(gaps, levels) == pytest.approx(1)
    assert math.sqrt(np.trapezoid(gaps**2, levels)) > 5


def test_like_goes_with_fitted_and_needs_a_trace_with_times():
    with pytest.raises(ValueError, match="`like` names the fit"):
        Arrivals(process=Process.GAMMA, like="azure-code")
    with pytest.raises(ValueError, match="`like` names the fit"):
        Arrivals(process=Process.FITTED)
    assert fitted("arxiv-summarization").gaps is None
    with pytest.raises(ValueError, match="'arxiv-summarization' has no arrival times"):
        Arrivals(process=Process.FITTED, like="arxiv-summarization")
