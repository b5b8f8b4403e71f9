import pytest

from loadtests.simulator.baselines.gorgo import GAIN, RUNNING, TYPICAL_TOKENS, Gorgo
from policies.request import RoundTrip
from tests.fleets import request
from tests.loadtests.simulator.baselines.arena import Arena, three


def test_network_queue_running_and_prefill_add_up():
    balancer = Gorgo()
    arena = Arena(balancer, *three()[:1], rtt={"a": 0.05})
    (node,) = arena.router.fleet.nodes()
    asked = request(prompt_tokens=1000.0)
    assert balancer._cost(node, asked) == pytest.approx(0.05 + 0.1)
    arena.loaded("a", waiting=2)
    assert balancer._cost(node, asked) == pytest.approx(0.05 + 1e-4 * (2 * TYPICAL_TOKENS + 1000))
    first = arena.send(prompt_tokens=300.0)
    assert balancer._cost(node, asked) == pytest.approx(0.05 + 1e-4 * (2 * 300 + RUNNING * 300 + 1000))
    arena.answer(first, 1.0)
    assert balancer._cost(node, asked) == pytest.approx(0.05 + 1e-4 * (2 * TYPICAL_TOKENS + 1000))


def test_the_round_trip_is_an_average_of_probes():
    balancer = Gorgo()
    arena = Arena(balancer, *three()[:1], rtt={"a": 0.1})
    arena.router.observe(RoundTrip("a", 0.2), 0.0)
    assert balancer._round_trips["a"] == pytest.approx(0.1 + GAIN * 0.1)


def test_what_is_cached_is_not_prefilled_again():
    arena = Arena(Gorgo(), *three(), rtt={"a": 0.01, "b": 0.05, "c": 0.09})
    arena.loaded("a", waiting=20)
    warm = arena.send(affinity="s")
    assert warm.node.worker.id == "b"
    arena.answer(warm, 0.5)
    for name in "ac":
        arena.loaded(name, 1.0)
    assert arena.send(1.0, affinity="other").node.worker.id == "a"
    assert arena.send(1.0, affinity="s").node.worker.id == "b"
