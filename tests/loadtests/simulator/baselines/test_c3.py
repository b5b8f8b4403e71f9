import pytest

from loadtests.simulator.baselines.c3 import C3, GAIN
from tests.loadtests.simulator.baselines.arena import Arena, three


def answered(arena: Arena, dispatch, response: float, service: float) -> None:
    arena.answer(dispatch, dispatch.at + response, queue=0.0, prefill=service, decode=0.0)


def test_the_score_is_the_papers():
    balancer = C3(clients=10)
    arena = Arena(balancer, *three()[:1])
    answered(arena, arena.send(), 0.5, 0.1)
    arena.loaded("a", 1.0, waiting=4, running=8)
    arena.send(1.0)
    (node,) = arena.router.fleet.nodes()
    assert balancer._score(node) == pytest.approx(0.5 - 0.1 + (1 + 1 * 10 + 4) ** 3 * 0.1)


def test_averages_begin_with_the_first_answer():
    balancer = C3(clients=1)
    arena = Arena(balancer, *three()[:1])
    for response in (0.5, 1.5):
        answered(arena, arena.send(), response, 0.1)
    assert balancer._of("a").response == pytest.approx(0.5 + GAIN * 1.0)


def test_a_long_queue_is_shunned_more_than_its_length():
    arena = Arena(C3(clients=1), *three()[:2])
    arena.loaded("a", waiting=2)
    arena.loaded("b", waiting=4)
    for _ in range(2):
        assert arena.send().node.worker.id == "a"


def test_requests_in_flight_stand_for_those_of_other_gateways():
    few, many = (Arena(C3(clients), *three()[:2]) for clients in (1, 10))
    for arena, expected in ((few, ["a"] * 5), (many, ["a", "b"])):
        arena.loaded("b", waiting=6)
        assert [arena.send().node.worker.id for _ in expected] == expected
