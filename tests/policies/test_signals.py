import math

import pytest

from policies import signals
from policies.records import Curve, MarginalPrice, ReservedPrice, TokenPrice
from policies.request import Infeasible, LoadSeen, WorkerGone
from tests.fleets import MODEL, endpoint, load, request, router, worker

TEXT = endpoint(curve=Curve(base=0.01, prefill=1e-5, decode=1e-3), max_batch=10)


def nodes(*described):
    """Workers of (id, region, US dollars an hour)."""
    return [worker(name, region=region, usd_per_hour=usd, endpoints=(TEXT,)) for name, region, usd in described]


def at_work(r, now, seq=2, **running):
    for name, count in running.items():
        r.observe(LoadSeen(load(name, seq, running=count), 0.0), now)


def by_region(r, now):
    r.tick(now)
    return {row.region: row for row in r.fleet.signals.rows()}


def test_work_is_told_in_nodes():
    r = router(*nodes(("a", "eu", 1.0), ("b", "eu", 1.0), ("c", "us", 1.0)))
    at_work(r, 0.0, a=5, b=10, c=0)
    found = by_region(r, 0.0)
    assert (found["eu"].nodes, found["eu"].busy) == (2, pytest.approx(1.5))
    assert (found["us"].nodes, found["us"].busy) == (1, 0.0)
    r.observe(LoadSeen(load("c", 3, waiting=9, running=10, backlog=0.6), 0.0), 1.1)
    assert by_region(r, 1.1)["us"].busy == pytest.approx(4.0), "600 ms of queue are four times what is not felt"
    assert by_region(r, 1.2)["us"].runway_s == 0.0


def test_the_shadow_price_is_what_the_dearest_at_work_costs_more():
    r = router(*nodes(("a", "eu", 1.0), ("b", "eu", 3.0), ("c", "us", 2.0)))
    assert by_region(r, 0.0)["eu"].shadow_price == pytest.approx(1.0), "nobody works: the next goes to the cheapest"
    assert by_region(r, 0.1)["us"].shadow_price == pytest.approx(2.0)
    at_work(r, 1.0, b=2)
    assert by_region(r, 1.1)["eu"].shadow_price == pytest.approx(3.0)
    r.observe(LoadSeen(load("b", 3, waiting=1, running=10, backlog=0.1), 0.0), 2.2)
    assert by_region(r, 2.2)["eu"].shadow_price == pytest.approx(6.0), "its queue is counted in"


def test_the_runway_is_how_long_growth_may_go_on():
    r = router(*nodes(("a", "eu", 1.0), ("b", "eu", 1.0)))
    for second in range(150):
        at_work(r, float(second), seq=second + 2, a=0.05 * second and int(0.05 * second), b=0)
        found = by_region(r, float(second))["eu"]
        if second < 2:
            assert found.runway_s == math.inf
    # 0.05 requests of ten slots a second: half a node's hundredth part, and 1.3 nodes are left.
    assert found.runway_s == pytest.approx((2 - 0.7) / 0.005, rel=0.15)
    for second in range(150, 160):
        at_work(r, float(second), seq=second + 2, a=0, b=0)
        found = by_region(r, float(second))["eu"]
        assert found.runway_s == math.inf, "it is over"


def test_idle_nodes_dearer_than_all_at_work_could_go():
    made = nodes(("cheap", "eu", 1.0), ("dear", "eu", 2.0), ("dearest", "eu", 5.0))
    r = router(*made)
    assert by_region(r, 0.0)["eu"].idle_dear_share == pytest.approx(7 / 8), "but the cheapest has to stay"
    at_work(r, 1.0, dear=5)
    assert by_region(r, 1.1)["eu"].idle_dear_share == pytest.approx(5 / 8)
    at_work(r, 2.0, seq=3, dearest=5)
    assert by_region(r, 2.2)["eu"].idle_dear_share == 0.0


def test_what_is_reserved_or_has_no_hours_cannot_be_saved():
    r = router(
        worker("a", price=MarginalPrice(1.0)),
        worker("b", price=ReservedPrice(90.0)),
        worker("c", price=TokenPrice(9, 9)),
    )
    assert by_region(r, 0.0)["home"].idle_dear_share == 0.0, "the cheapest stays, the others save nothing"
    free = router(worker("a", usd_per_hour=0.0))
    found = by_region(free, 0.0)["home"]
    assert (found.shadow_price, found.idle_dear_share) == (1.0, 0.0)


def test_demand_that_nobody_can_meet_is_counted_by_its_cause():
    r = router(*nodes(("a", "eu", 1.0)))
    unmet = r.fleet.signals.unmet
    asked = request(deadline=0.001, prompt_tokens=1000.0, output_tokens=100.0)
    r.route(asked, 0.0)
    r.route(request(deadline=0.001, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert unmet[MODEL, signals.DISTANCE].requests == 2
    assert unmet[MODEL, signals.DISTANCE].seconds == pytest.approx(0.01 + 0.01 + 0.1 / 10 + 0.01)
    r.observe(LoadSeen(load("a", 2, waiting=40, running=10, backlog=2.0), 0.0), 0.0)
    r.route(request(deadline=1.0), 0.0)
    assert unmet[MODEL, signals.QUEUE].requests == 1
    r.observe(LoadSeen(load("a", 3), 0.0), 0.0)
    r.route(request(deadline=1.0), 0.0)
    r.route(request(), 0.0)
    r.route(asked, 0.0, avoid=("x",))
    assert sum(one.requests for one in unmet.values()) == 3, "in time, patient, or a repeat"


def test_a_look_a_second_and_what_is_gone_is_forgotten():
    r = router(*nodes(("a", "eu", 1.0)), worker("b", endpoints=(endpoint(model="other"),)))
    for step in range(2):
        r.tick(step * 0.05)
    assert {row.model for row in r.fleet.signals.rows()} == {MODEL, "other"}
    at_work(r, 0.2, a=10)
    r.tick(0.3)
    assert by_region(r, 0.35)["eu"].busy == 0.0, "not yet"
    assert by_region(r, 1.1)["eu"].busy == 1.0
    r.observe(WorkerGone("a"), 2.0)
    r.observe(WorkerGone("b"), 2.0)
    assert by_region(r, 2.1) == {}
    assert not r.fleet.signals._trends
