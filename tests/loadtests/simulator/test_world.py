import pytest

from loadtests.arrivals import Origin
from tests.loadtests.simulator import worlds


def test_round_trips_are_the_same_both_ways():
    world = worlds.world()
    assert world.round_trip("east", "far") is world.round_trip("far", "east")
    assert world.round_trip("east", "east").between == ("east", "east")
    with pytest.raises(StopIteration):
        world.round_trip("east", "moon")


def test_requests_come_from_where_the_gateways_are():
    origins = worlds.world(gateways=("west", "west", "east")).origins()
    assert origins == {"west": Origin(1.0, -122), "east": Origin(1.0, -75)}
