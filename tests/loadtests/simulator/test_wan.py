import random
import statistics

import pytest

from loadtests.simulator.wan import Network, Way
from loadtests.simulator.world import RoundTrip, Wan, WorldError
from tests.loadtests.simulator.worlds import world

DRAWS = 40_000


def way(min_ms, avg_ms, mdev_ms, **fields):
    trip = RoundTrip(between=("a", "b"), min_ms=min_ms, avg_ms=avg_ms, mdev_ms=mdev_ms)
    return Way(trip, Wan(**fields), random.Random(1))


@pytest.mark.parametrize(("low", "mean", "deviation"), [(80, 81, 0.5), (80, 90, 4), (0.1, 0.3, 0.2), (200, 260, 30)])
def test_two_legs_have_the_mean_and_deviation_of_the_measured_round_trip(low, mean, deviation):
    leg = way(low, mean, deviation, spike_share=0.0)
    trips = [leg.draw() + leg.draw() for _ in range(DRAWS)]
    assert min(trips) >= low / 1e3
    # Four standard errors of a mean, and 5 % for the deviation of a skewed distribution.
    assert statistics.fmean(trips) == pytest.approx(mean / 1e3, abs=4 * deviation / 1e3 / DRAWS**0.5)
    assert statistics.stdev(trips) == pytest.approx(deviation / 1e3, rel=0.05)
    assert 2 * leg.mean == pytest.approx(mean / 1e3)


def test_spikes_are_as_rare_and_as_long_as_the_world_says():
    leg = way(100, 100, 0, spike_share=0.01, spike_factor=3.0)
    drawn = [leg.draw() for _ in range(DRAWS)]
    spikes = [seconds for seconds in drawn if seconds > 0.1]
    assert spikes == [pytest.approx(0.15)] * len(spikes)
    # Binomial: four standard deviations of 40,000 draws at 1 % are 80.
    assert len(spikes) == pytest.approx(0.01 * DRAWS, abs=80)
    assert leg.mean == pytest.approx(0.05 * 1.02)


def test_a_pair_of_regions_has_one_way_and_an_unmeasured_one_is_named():
    network = Network(world(), random.Random(1))
    assert network.way("east", "far") is network.way("far", "east")
    with pytest.raises(WorldError, match=r"round_trips: none between 'east' and 'mars'"):
        network.way("east", "mars")


def test_the_ways_between_two_groups_leave_out_those_inside_a_region():
    network = Network(world(), random.Random(1))
    both = network.between({"east"}, {"east", "west", "far"})
    assert both == [network.way("east", "far"), network.way("east", "west")]
