import itertools
import random

import pytest

from policies.health import SLOW_START_LIMIT, TRANSITIONS, Event, Health, HealthConfig, State


@pytest.fixture
def health():
    return Health(HealthConfig())


def test_every_state_can_be_left():
    for state in State:
        assert any(s is state for s, _ in TRANSITIONS), state


def test_unlisted_pairs_change_nothing(health):
    for state, event in itertools.product(State, Event):
        if (state, event) not in TRANSITIONS:
            health.state = state
            assert not health.apply(event)
            assert health.state is state


def test_consecutive_failures_make_ejection_due(health):
    assert not any(health.failed() for _ in range(4))
    assert health.failed()


def test_an_answer_between_starts_the_count_anew(health):
    for _ in range(20):
        assert not any(health.failed() for _ in range(2))
        for _ in range(30):
            health.answered()


def test_failed_connections_count_sooner(health):
    assert not health.failed(connect=True)
    assert health.failed(connect=True)


def test_half_the_answers_failing_makes_ejection_due_without_a_run_of_failures(health):
    due = False
    for _ in range(40):
        due = due or health.failed()
        health.answered()
    assert due


def test_probes_make_ejection_due_and_a_good_one_resets(health):
    assert not health.probed(ok=False)
    assert not health.probed(ok=False)
    assert not health.probed(ok=True)
    assert not health.probed(ok=False)
    assert not health.probed(ok=False)
    assert health.probed(ok=False)


def test_ejections_grow_are_capped_and_jittered(health):
    rng, lengths = random.Random(1), []
    for _ in range(20):
        health.eject(0.0, rng)
        lengths.append(health.until)
        health.apply(Event.EXPIRED)
    assert 5.0 <= lengths[0] <= 6.0
    assert 10.0 <= lengths[1] <= 12.0
    assert max(lengths) <= 60.0 * 1.2
    assert len(set(lengths[12:])) > 1


def test_return_is_slow(health):
    health.eject(0.0, random.Random(1))
    assert health.state is State.EJECTED
    health.apply(Event.EXPIRED)
    assert health.failed(), "one failure while probing ejects again"
    health.answered()
    assert (health.state, health.slow) == (State.SERVING, 2)
    for _ in range(SLOW_START_LIMIT):
        health.answered()
    assert health.slow == 0


def test_drain_wins_over_ejection_and_ends(health):
    health.eject(0.0, random.Random(1))
    health.apply(Event.DRAIN)
    assert health.state is State.DRAINING
    health.apply(Event.UNDRAIN)
    assert health.state is State.SERVING
