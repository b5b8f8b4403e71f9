import math

import pytest

from loadtests.simulator.baselines.peak_ewma import DECAY_S, PENALTY, PeakEwma
from tests.loadtests.simulator.baselines.arena import Arena, three

pair = three()[:2]


def primed(*, a: float, b: float) -> tuple[Arena, PeakEwma]:
    """Both have answered once, at 0."""
    balancer = PeakEwma()
    arena = Arena(balancer, *pair)
    for name, seconds in (("a", a), ("b", b)):
        balancer._costs[name] = [seconds, 0.0]
    return arena, balancer


def test_latency_times_what_is_in_flight_decides():
    arena, _ = primed(a=1.0, b=2.5)
    assert [arena.send().node.worker.id for _ in range(4)] == ["a", "a", "b", "a"]


def test_a_peak_is_taken_at_once_and_forgotten_slowly():
    _, balancer = primed(a=1.0, b=1.0)
    assert balancer._observe("a", 5.0, 1.0) == 5.0
    assert balancer._observe("a", 1.0, 2.0) == pytest.approx(5 * math.exp(-1 / DECAY_S) + 1 - math.exp(-1 / DECAY_S))
    assert balancer._observe("b", 0.0, DECAY_S) == pytest.approx(math.exp(-1))


def test_who_has_never_answered_gets_one_request_to_show_itself():
    balancer = PeakEwma()
    arena = Arena(balancer, *pair)
    balancer._costs["a"] = [1.0, 0.0]
    first = arena.send()
    assert first.node.worker.id == "b"
    assert [arena.send().node.worker.id for _ in range(5)] == ["a"] * 5
    assert balancer._load(first.node.state) > PENALTY
    arena.answer(first, 0.2)
    assert arena.send(0.2).node.worker.id == "b"


def test_streams_are_measured_to_their_first_token_other_answers_whole():
    for stream, seconds in ((True, 0.1), (False, 3.0)):
        balancer = PeakEwma()
        arena = Arena(balancer, *pair)
        dispatch = arena.send(stream=stream)
        arena.answer(dispatch, 3.0, first_byte=0.1)
        assert balancer._costs[dispatch.node.worker.id][0] == seconds
