import math
import random
from collections import deque
from statistics import NormalDist

import pytest

from policies.calibrate import (
    GAIN,
    LASTED,
    MAX_LEVEL,
    OVERDRAFT,
    PRIOR,
    REFRESH,
    TENANT_SAMPLES,
    WINDOW,
    Calibration,
    Level,
    Residuals,
)
from policies.estimate import CLASSES
from policies.request import Eta
from tests.fleets import request


def fed(residuals):
    r = Residuals()
    for value in residuals:
        r.observe(value)
    return r


def test_without_answers_errors_are_taken_as_normal():
    r = Residuals()
    for p in CLASSES:
        assert r.quantile(p) == pytest.approx(NormalDist().inv_cdf(p), abs=0.25)
        assert r.probability(NormalDist().inv_cdf(p)) == pytest.approx(p, abs=0.02)


def test_the_errors_seen_replace_the_prior():
    rng = random.Random(3)
    seen = [rng.expovariate(1.0) for _ in range(WINDOW)]
    r = fed(seen)
    assert r.quantile(0.95) == sorted(seen)[int(0.95 * WINDOW) - 1]
    assert r.probability(r.quantile(0.9)) == pytest.approx(0.9)
    assert r.count == WINDOW


def test_old_errors_are_forgotten_and_one_absurd_error_is_cut():
    r = fed([1e9] * WINDOW + [0.5] * WINDOW)
    assert r.quantile(1.0) == 0.5
    assert fed([1e9] * REFRESH).quantile(1.0) < 1e3


def test_quantiles_are_new_every_so_many_errors():
    r = Residuals()
    assert [r.observe(0.0) for _ in range(2 * REFRESH)].count(True) == 2
    assert r.count == PRIOR + 2 * REFRESH


def adversary(kind, rng):
    """Whether the i-th request misses, seeing the level."""
    return {
        "always_misses": lambda level, i: True,
        "never_misses": lambda level, i: False,
        "random": lambda level, i: rng.random() < 0.3,
        "misses_when_lax": lambda level, i: level.eps > level.target,
        "misses_what_is_promised": lambda level, i: not level.closed,
        "lulls_then_strikes": lambda level, i: (i // 500) % 2 == 1,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["always_misses", "never_misses", "random", "misses_when_lax", "misses_what_is_promised", "lulls_then_strikes"],
)
@pytest.mark.parametrize("probability", CLASSES)
@pytest.mark.parametrize("outstanding", [0, 7, 50])
def test_the_bound_holds_for_any_predictor_and_any_node(kind, probability, outstanding):
    """The claim of `Level`, at every prefix; and reopenings stay as few as it says."""
    rng = random.Random(11)
    level = Level(1.0 - probability)
    first = level.eps
    misses = adversary(kind, rng)
    flying: deque[tuple[bool, bool]] = deque()
    settled = missed = tests = 0
    for i in range(12_000):
        flying.append((level.closed, misses(level, i)))
        while len(flying) > outstanding:
            test, outcome = flying.popleft()
            if test:
                level.tested(outcome)
                tests += 1
            else:
                level.settled(outcome)
                settled += 1
                missed += outcome
            tau = outstanding + 1  # with the one just sent
            start = (first + OVERDRAFT) / GAIN + tau + 1
            again = level.reopened * (OVERDRAFT / GAIN + tau + 2)
            assert missed <= settled * level.target + start + again + 1e-6
            assert level.reopened <= math.log2(1 + tests) + settled / LASTED
    assert settled > 0


def spent(target):
    level = Level(target)
    while not level.closed:
        level.settled(missed=True)
    return level


def hits_to_open(level):
    count = 0
    while level.closed:
        level.tested(missed=False)
        count += 1
    return count


def test_a_spent_level_closes_and_reopens_ever_more_slowly_while_reopening_does_not_last():
    level = spent(0.05)
    needed = []
    for _ in range(3):
        needed.append(hits_to_open(level))
        while not level.closed:
            level.settled(missed=True)
    assert needed == [20, 40, 80]


def test_a_reopening_that_lasted_is_forgiven():
    level = spent(0.05)
    hits_to_open(level)
    for _ in range(LASTED):
        level.settled(missed=False)
    while not level.closed:
        level.settled(missed=True)
    assert hits_to_open(level) == 20


def test_a_miss_in_a_test_costs_as_many_hits_as_the_target_allows_for_it():
    level = spent(0.05)
    for _ in range(19):
        level.tested(missed=False)
    level.tested(missed=True)
    assert hits_to_open(level) == 20


def test_a_few_misses_of_a_cold_gateway_close_nothing():
    level = Level(0.02)
    for _ in range(5):
        level.settled(missed=True)
    assert not level.closed


def test_a_level_never_grows_beyond_even_odds():
    level = Level(0.10)
    for _ in range(10_000):
        level.settled(missed=False)
    assert level.eps == MAX_LEVEL


def test_promises_are_kept_apart():
    c = Calibration()
    for _ in range(50):
        c.settled(0.95, "", missed=True)
    assert not c.open(0.95, "")
    assert c.open(0.99, "")
    assert c.level(0.99, "") == pytest.approx(0.01)


def test_the_quantiles_follow_the_level_and_never_beyond_what_residuals_can_say():
    c = Calibration()
    for _ in range(WINDOW):
        c.first.observe(2.0)
        c.total.observe(-1.0)
    assert c.quantiles(0.95, "") == (-1.0, 2.0)
    for _ in range(50):
        c.settled(0.95, "", missed=True)
    assert c.quantiles(0.95, "") == (-1.0, 2.0), "closed: the strictest level"


def test_a_tenant_gets_a_level_of_its_own_when_it_has_answers_enough_and_the_stricter_counts():
    c = Calibration()
    for _ in range(TENANT_SAMPLES):
        c.settled(0.95, "kept", missed=False)
    assert c.level(0.95, "kept") == c.promise(0.95).eps == c.level(0.95, "new")
    for _ in range(TENANT_SAMPLES):
        c.settled(0.95, "broken", missed=random.Random(5).random() < 0.5)
    assert c.level(0.95, "broken") <= c.promise(0.95).eps


def test_tenants_are_many_and_memory_is_not():
    c = Calibration()
    for i in range(5_000):
        c.settled(0.95, f"tenant-{i}", missed=False)
    assert len(c._tenants) <= 1024


def test_one_look_tells_what_two_would():
    c = Calibration()
    for missed in [False, True] * 4 + [True] * 8:
        for tenant in ("", "acme"):
            z, is_open = c.whole(0.95, tenant)
            assert (z, is_open) == (c.quantiles(0.95, tenant)[0], c.open(0.95, tenant))
        c.settled(0.95, "acme", missed)
    assert not c.whole(0.95, "acme")[1]


def test_a_chance_is_that_of_the_tightest_deadline_by_the_errors_seen():
    c = Calibration()
    eta = Eta(network=0.1, wait=0.2, prefill=0.1, decode=1.0, spread=0.2, first_spread=0.1)

    def chance(**deadlines):
        return c.chance(request(**deadlines), eta, 0.0)

    assert chance() == 1.0
    assert chance(first_token_deadline=0.4) == pytest.approx(0.5, abs=0.01)
    assert chance(deadline=1.4) == pytest.approx(0.5, abs=0.01)
    assert chance(first_token_deadline=0.5, deadline=1.4) == pytest.approx(0.5, abs=0.01)
    assert chance(first_token_deadline=0.5) == pytest.approx(0.84, abs=0.01)
    for _ in range(WINDOW):
        c.first.observe(2.0)  # always two spreads late
    assert chance(first_token_deadline=0.5) == 0.0
    assert chance(first_token_deadline=0.61) == 1.0
