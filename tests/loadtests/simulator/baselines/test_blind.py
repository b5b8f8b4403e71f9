from collections import Counter

from loadtests.simulator.baselines.blind import LowestPrice, Random, tag
from policies.records import TokenPrice
from policies.request import Shed
from tests.fleets import endpoint, worker
from tests.loadtests.simulator.baselines.arena import Arena, three


def test_random_takes_everybody_alike_whatever_their_load():
    arena = Arena(Random(), *three())
    arena.loaded("a", waiting=50, running=8, backlog=9.0)
    places = arena.spread(3000)
    assert all(900 < places[name] < 1100 for name in "abc")


def test_the_lowest_price_wins_at_any_load_and_equals_share():
    arena = Arena(LowestPrice(), worker("dear", usd_per_hour=2.0), *three())
    arena.loaded("a", waiting=50, running=8, backlog=9.0)
    places = arena.spread(600)
    assert places["dear"] == 0
    assert min(places[name] for name in "abc") > 150


def test_price_lists_are_compared_by_their_sum():
    listed = worker("t", price=TokenPrice(2.0, 6.0), endpoints=(endpoint(),))
    assert [tag(node.state) for node in Arena(Random(), listed).router.fleet.nodes()] == [8.0]


def test_nobody_eligible_is_said_by_the_router():
    arena = Arena(Random(), *three())
    assert isinstance(arena.route(max_cost=0.0), Shed)
    assert Counter(arena.spread(1)).total() == 1
