import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.fairness import DEALT_SECONDS, MAX_TENANTS, MEMORY_SECONDS, SILENT_SECONDS, Shares, level

asked = st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.1, 10.0)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("tenants", "served", "each"),
    [
        ([(10, 1), (10, 1)], 10, 5.0),
        ([(2, 1), (20, 1)], 10, 8.0),
        ([(2, 1), (20, 1), (20, 2)], 11, 3.0),
        ([(2, 1), (3, 1)], 5, math.inf),
        ([(7, 1)], 7, math.inf),
    ],
)
def test_what_a_tenant_does_not_want_the_others_get(tenants, served, each):
    assert level(tenants, served) == pytest.approx(each)


@given(asked, st.floats(0.0, 1.0))
def test_all_that_is_served_is_dealt_out_and_nobody_gets_more_than_it_asked_for(tenants, share):
    served = share * sum(amount for amount, _ in tenants)
    each = level(tenants, served)
    dealt = [min(amount, each * weight) for amount, weight in tenants]
    assert sum(dealt) == pytest.approx(served, rel=1e-6, abs=1e-6)


def shares(seconds=10.0, rate=None, weights=None, capacity=100.0):
    """Tenants ask in a random order and get what there is, first come first served, but not beyond their share."""
    made, rng, now = Shares(weights), random.Random(1), 0.0
    rate = rate or {"hog": 300.0, "small": 20.0, "big": 60.0}
    got, credit = dict.fromkeys(rate, 0), 0.0
    names, odds = list(rate), list(rate.values())
    while now < seconds:
        step = rng.expovariate(sum(odds))
        now, credit = now + step, min(5.0, credit + step * capacity)
        (name,) = rng.choices(names, odds)
        served = credit >= 1.0 and not made.over(name, now)
        made.count(name, 1.0, now, asked=True, served=served)
        if served:
            credit -= 1.0
            got[name] += 1
    return made, {name: count / seconds for name, count in got.items()}


def test_a_hog_gets_what_the_others_leave():
    _, got = shares(60.0)
    assert got["small"] > 0.8 * 20, "a quarter, 5 of 20, were it first come first served"
    assert got["big"] == pytest.approx(got["hog"], rel=0.05), "who wants more than a share gets as much as the hog"
    assert sum(got.values()) > 85


def test_a_weight_is_a_larger_share():
    _, got = shares(60.0, {"a": 300.0, "b": 300.0}, {"a": 3.0})
    assert got["a"] / got["b"] == pytest.approx(3.0, rel=0.15)
    assert sum(got.values()) > 90


def test_nobody_is_over_its_share_alone_or_while_all_get_what_they_ask_for():
    made = Shares()
    for n in range(100):
        made.count("one", 1.0, n / 10, asked=True, served=n % 2 == 0)
        assert not made.over("one", n / 10)
    made, _ = shares(10.0, {"a": 60.0, "b": 10.0})
    assert not made.over("a", 10.0)
    assert not made.over("never heard of", 10.0)


def test_what_was_is_forgotten():
    made, _ = shares()
    made.count("hog", 30.0, 10.0, asked=True, served=True)
    assert made.over("hog", 10.0)
    for n in range(50):
        made.count("small", 1.0, 10.0 + n, asked=True, served=True)
    assert not made.over("hog", 10.0 + 10 * MEMORY_SECONDS)
    assert len(made._accounts) == 1, "and takes no memory"


def test_a_tenant_that_fell_silent_keeps_nobody_from_what_it_left():
    made, _ = shares(10.0, {"gone": 150.0, "hog": 150.0})
    made.count("hog", 100.0, 10.0, asked=True, served=True)
    for n in range(100):
        now = 10.0 + n * SILENT_SECONDS / 100
        assert made.over("hog", now), "nothing is served meanwhile, so that both fade alike"
        made.count("hog", 1.0, now, asked=True, served=False)
    now = 10.0 + SILENT_SECONDS + 2 * DEALT_SECONDS
    assert not made.over("hog", now)
    made.count("gone", 1.0, now, asked=True, served=False)
    assert made.over("hog", now + 2 * DEALT_SECONDS), "and is heard again when it asks again"


def test_tenants_are_many_and_memory_is_not():
    made = Shares()
    for n in range(MAX_TENANTS + 100):
        made.count(f"t{n}", 1.0, 0.0, asked=True, served=True)
    assert repr(made) == f"<Shares of {MAX_TENANTS} tenants, level inf>"
