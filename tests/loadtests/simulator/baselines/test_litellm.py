import pytest

from loadtests.simulator.baselines.litellm import KEPT, MINUTE, USED, LowestCost, LowestLatency
from policies.reason import Reason
from policies.request import Outcome
from tests.fleets import worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena, three


def test_who_has_no_sample_comes_first_then_the_lowest_mean():
    arena = Arena(LowestLatency(), *three())
    for seconds in (0.3, 0.1, 0.2):
        arena.answer(arena.send(), seconds)
    assert arena.router.balancer._samples.keys() == {"a", "b", "c"}
    fastest = min(arena.router.balancer._samples, key=lambda name: arena.router.balancer._samples[name])
    assert {arena.send().node.worker.id for _ in range(20)} == {fastest}


def test_ten_samples_are_kept_and_the_last_is_overwritten():
    balancer = LowestLatency()
    arena = Arena(balancer, *three()[:1])
    for seconds in range(1, KEPT + 4):
        arena.answer(arena.send(), float(seconds))
    assert balancer._samples["a"] == [*map(float, range(1, KEPT)), KEPT + 3.0]


def test_streams_count_their_first_token_others_their_pace_and_timeouts_a_thousand_seconds():
    balancer = LowestLatency()
    arena = Arena(balancer, *three()[:1])
    arena.answer(arena.send(), 3.0, first_byte=0.4)
    arena.answer(arena.send(stream=False), 3.0, output_tokens=30)
    arena.router.report(arena.send(), Outcome(reason=Reason.DEADLINE_EXCEEDED), 9.0)
    arena.router.report(arena.send(), Outcome(reason=Reason.REFUSED, executed=False), 9.0)
    assert balancer._samples["a"] == [0.4, pytest.approx(0.1), 1000.0]


def test_the_cheapest_per_token_until_its_minute_is_full():
    dear, cheap = (
        worker(name, usd_per_hour=usd, endpoints=(ENDPOINT,)) for name, usd in (("dear", 2.0), ("cheap", 1.0))
    )
    arena = Arena(LowestCost(gateways=2), dear, cheap)
    share = 0.11 + 100 * 0.01 / 8
    limit = 1100 / share * MINUTE * USED / 2
    sent = 0
    while (dispatch := arena.send()).node.worker.id == "cheap":
        arena.answer(dispatch, 0.1, output_tokens=100)
        sent += 1
    assert sent == pytest.approx(limit / 1100, abs=1)
    assert arena.send(MINUTE + 1).node.worker.id == "cheap"


def test_only_complete_answers_count_against_the_limit():
    balancer = LowestCost(gateways=1)
    arena = Arena(balancer, *three()[:1])
    arena.router.report(arena.send(), Outcome(reason=Reason.UPSTREAM_LOST, total=1.0), 1.0)
    assert not balancer._used
    arena.answer(arena.send(), 1.0, output_tokens=50)
    assert dict(balancer._used) == {("a", 0): 1050.0}


def test_with_every_limit_reached_the_router_does_its_best():
    arena = Arena(LowestCost(gateways=1_000_000), *three())
    assert arena.send(deadline=5.0).node.worker.id in "abc"
