"""Thousands of random schedules of failures over the pure core: what must hold holds in every one.

5,000 here, 50,000 by `make test-deep` (SCHEDULES says how many). A failure names its seed; `check(seed, ...)` repeats
it exactly. With none of n schedules failing, fewer than 3/n fail at all (95 %, the rule of three).
"""

import os
from collections import Counter

import pytest
from msgspec.structs import replace

from policies.request import Infeasible
from tests.properties.schedule import ALL, HEDGES, check

SCHEDULES = int(os.environ.get("SCHEDULES", "5000"))
EACH = 250


@pytest.mark.parametrize("first", range(0, SCHEDULES, EACH))
def test_whatever_fails_what_must_hold_holds(first, monkeypatch):
    for seed in range(first, min(first + EACH, SCHEDULES)):
        with monkeypatch.context() as patch:
            assert not check(seed, patch).broken, f"schedule {seed}"


def test_with_hedges_it_holds_too(monkeypatch):
    seen = Counter()
    for seed in range(SCHEDULES // 5):
        with monkeypatch.context() as patch:
            checker = check(seed, patch, hedge=HEDGES)
            assert not checker.broken, f"schedule {seed}"
            seen += checker.seen
    assert seen["hedge"] >= SCHEDULES // 25


@pytest.mark.parametrize("last", [Infeasible.BEST_EFFORT, Infeasible.REJECT])
def test_with_requests_held_it_holds_too(last, monkeypatch):
    seen = Counter()
    for seed in range(SCHEDULES // 10):
        with monkeypatch.context() as patch:
            checker = check(seed, patch, when_infeasible=(Infeasible.HOLD, last))
            assert not checker.broken, f"schedule {seed}"
            seen += checker.seen
    assert seen["hold"] >= SCHEDULES // 25


CONTROLS = {
    "settled_once": {"I1", "I2", "I6"},
    "few_attempts": {"I4"},
    "other_nodes": {"I4"},
    "first_byte_commits": {"I4"},
    "late_work_is_dropped": {"I5"},
    "answers_are_kept_apart": {"I7"},
    "ejections_are_capped": {"I8"},
    "old_loads_are_ignored": {"I9"},
    "retries_are_budgeted": {"I10"},
}
ENOUGH = 400
"""Schedules within which a guard that is off must have been missed."""


@pytest.mark.parametrize("guard", CONTROLS)
def test_a_guard_that_is_off_is_missed(guard, monkeypatch):
    """The negative controls: a checker that cannot turn red proves nothing."""
    missed, seed = set(), 0
    while not missed >= CONTROLS[guard]:
        assert seed < ENOUGH, f"nobody noticed: only {missed}"
        with monkeypatch.context() as patch:
            missed |= set(check(seed, patch, replace(ALL, **{guard: False})).broken)
        seed += 1


def test_a_schedule_can_be_repeated(monkeypatch):
    with monkeypatch.context() as patch:
        one = check(7, patch)
    with monkeypatch.context() as patch:
        assert check(7, patch).seen == one.seen


def test_schedules_meet_what_they_are_to_test(monkeypatch):
    seen = Counter()
    for seed in range(300):
        with monkeypatch.context() as patch:
            seen += check(seed, patch).seen
    expected = {"answer", "client_gone", "deadline_exceeded", "stream_interrupted", "upstream_lost", "no_capacity"}
    assert {what for what, times in seen.items() if times >= 3} >= expected | {"attempt 2", "attempt 3", "ejection"}, (
        seen
    )
