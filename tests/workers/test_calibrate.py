import itertools
import time

import pytest

from policies.records import Curve
from workers import calibrate


def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_machine_half_as_fast_has_a_factor_of_two():
    assert calibrate.factor(0.002, lambda: burn(0.004), 0.05) == pytest.approx(2.0, rel=0.3)


def test_the_first_run_and_an_outlier_do_not_count():
    clock = itertools.accumulate([0, 0.010, 0, 0.500, 0, 0.010, 0, 0.010, 0, 0.010])
    runs = []
    assert calibrate.factor(0.010, lambda: runs.append(1), 0.515, lambda: next(clock)) == pytest.approx(1.0)
    assert len(runs) == 1 + 3


def test_the_factor_is_bounded_and_a_curve_of_nothing_is_left_alone():
    assert calibrate.factor(1e-9, lambda: burn(0.001), 0.005) == calibrate.BOUND
    assert calibrate.factor(60.0, lambda: None, 0.005) == 1 / calibrate.BOUND
    assert calibrate.factor(0.0, lambda: None, 0.005) == 1.0


def test_the_budget_bounds_the_trial():
    begun = time.thread_time()
    calibrate.factor(0.01, lambda: burn(0.010), 0.02)
    assert time.thread_time() - begun < 0.08


def test_the_whole_curve_is_scaled():
    curve = Curve(base=1.0, item=2.0, prefill=3.0, decode=4.0)
    assert calibrate.scaled(curve, 0.5) == Curve(base=0.5, item=1.0, prefill=1.5, decode=2.0)


def test_in_company_a_full_batch_is_tried_or_what_the_budget_allows():
    curve = Curve(base=0.010, item=0.005)
    assert calibrate.company(curve, most=32, budget=4.0) == 32
    assert calibrate.company(curve, most=32, budget=0.2) == 9
    assert calibrate.company(curve, most=32, budget=0.001) == 2
    assert calibrate.company(Curve(base=0.010), most=32, budget=0.1) == 32


def test_company_changes_what_a_further_item_costs():
    curve = calibrate.bent(Curve(base=0.010, item=0.005, prefill=1.0), items=5, by=0.5)
    assert curve == Curve(base=0.010, item=pytest.approx(0.00125), prefill=1.0)
    assert calibrate.bent(Curve(base=0.010, item=0.005), items=5, by=0.1).item == 0.0


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Curve(base=0.010, item=0.005), False),
        (Curve(base=0.011, item=0.0055), False),
        (Curve(base=0.013, item=0.005), True),
        (Curve(base=0.010, item=0.008), True),
        (Curve(base=0.010, item=0.003), True),
        (Curve(base=0.010, item=0.005, decode=0.001), True),
    ],
)
def test_gateways_are_told_of_what_moved_by_a_fifth(found, told):
    assert calibrate.moved(Curve(base=0.010, item=0.005), found, most=8) is told
