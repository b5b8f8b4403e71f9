import pytest

from loadtests.simulator.baselines.stargate import AGAIN_S, BUCKET_S, UNLOCK, PowerOfN, WaitAndWiden
from loadtests.simulator.contender import POLICY
from policies.request import Dispatch, Hold, RoundTrip
from tests.fleets import request, worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena, three


def test_the_estimate_is_round_trip_queue_and_prefill_and_what_was_sent_since():
    balancer = PowerOfN()
    arena = Arena(balancer, *three()[:1])
    arena.loaded("a", waiting=1, running=1, backlog=0.3)
    arena.router.observe(RoundTrip("a", 0.04), 0.0)  # the last raw sample, whatever came before
    (node,) = arena.router.fleet.nodes()
    estimates = balancer._estimates
    assert estimates.first_token(node, 1000.0) == pytest.approx(0.04 + 0.3 + 0.11)
    arena.send()
    assert estimates.first_token(node, 1000.0) == pytest.approx(0.04 + 0.3 + 0.1 + 0.11)
    assert estimates.share(node.state) == pytest.approx(3 / 8)
    arena.loaded("a", 0.5, waiting=1, running=1, backlog=0.1)
    assert estimates.first_token(node, 1000.0) == pytest.approx(0.04 + 0.1 + 0.11)


def test_the_soonest_and_the_full_only_among_the_full():
    arena = Arena(PowerOfN(), *three()[:2])
    arena.loaded("a", backlog=0.5, waiting=1)
    assert arena.send().node.worker.id == "b"
    arena.loaded("b", running=8, backlog=0.0)
    assert arena.send().node.worker.id == "a"


def at_distances(**rtts: float) -> Arena:
    return Arena(WaitAndWiden(), *(worker(name, endpoints=(ENDPOINT,)) for name in rtts), rtt=rtts)


def fill(arena: Arena, *names: str) -> None:
    for name in names:
        arena.loaded(name, running=8)


def test_the_first_bucket_is_open_at_once_and_shared():
    arena = at_distances(a=0.010, b=0.010 + BUCKET_S * 0.9, c=0.2)
    places = set()
    for _ in range(20):
        places.add(arena.send().node.worker.id)
        for name in "abc":
            arena.loaded(name)
    assert places == {"a", "b"}


def test_worse_nodes_open_after_a_share_of_the_gap():
    arena = at_distances(a=0.01, b=0.09, c=0.21)
    fill(arena, "a")
    held = arena.route(1.0)
    assert isinstance(held, Hold)
    assert held.until == pytest.approx(1.0 + 0.08 * UNLOCK, abs=1e-3)
    opened = arena.route(held.until + 1e-3, arrived=1.0)
    assert isinstance(opened, Dispatch)
    assert opened.node.worker.id == "b"
    fill(arena, "b")
    assert arena.route(1.03, arrived=1.0).until == pytest.approx(1.0 + 0.2 * UNLOCK, abs=1e-3)
    assert arena.route(1.06, arrived=1.0).node.worker.id == "c"


def test_with_everybody_full_it_waits():
    arena = at_distances(a=0.01, b=0.01)
    fill(arena, "a", "b")
    assert arena.route(1.0).until == pytest.approx(1.0 + AGAIN_S)
    arena.loaded("b", 1.05, running=7)
    assert arena.route(1.05, arrived=1.0).node.worker.id == "b"


def test_a_repeat_does_not_wait():
    arena = at_distances(a=0.01, b=0.01)
    fill(arena, "a", "b")
    again = arena.router.route(request(policy=POLICY, prompt_tokens=100.0, arrived=0.9), 1.0, ("a",))
    assert isinstance(again, Dispatch)
    assert again.node.worker.id == "b"
