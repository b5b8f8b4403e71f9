import pytest

from policies import cost
from policies.cost import Terms
from policies.reason import Reason
from policies.records import Curve, MarginalPrice, ReservedPrice, TokenPrice
from policies.request import Outcome, WorkerSeen
from tests.fleets import endpoint, request, router, worker

CURVE = Curve(base=0.1, item=0.02, prefill=0.001, decode=0.01)


def node_of(**fields):
    return router(worker("w", endpoints=(endpoint(curve=CURVE),), **fields)).fleet.nodes()[0]


def test_marginal_cost_is_seconds_times_price():
    node = node_of(price=MarginalPrice(3600.0))  # a dollar a second
    assert node.cost(request()) == pytest.approx(0.1)
    assert node.cost(request(prompt_tokens=100, output_tokens=10)) == pytest.approx(0.1 + 0.1 + 0.1)
    assert node.cost(request(items=5)) == pytest.approx(0.1 + 4 * 0.02)


def test_token_cost_is_the_price_list():
    node = node_of(price=TokenPrice(2.0, 8.0, 0.001))
    assert node.cost(request(prompt_tokens=1000, output_tokens=500)) == pytest.approx(0.001 + 0.002 + 0.004)


def test_egress_is_charged_on_the_answer():
    node = node_of(price=TokenPrice(0, 0), egress_usd_per_gb=0.08)
    assert node.cost(request(reply_bytes=1e9)) == pytest.approx(0.08)


def test_the_bill_takes_what_the_worker_reported():
    node = node_of(price=MarginalPrice(3600.0), egress_usd_per_gb=1.0)
    assert cost.bill(node, request(), Outcome(accelerator=0.25, reply_bytes=1_000_000)) == pytest.approx(0.251)
    assert cost.bill(node, request(), Outcome()) == pytest.approx(0.1)  # unreported: as predicted
    assert cost.bill(node, request(), Outcome(accelerator=0.25, executed=False)) == 0.0


def test_the_bill_of_a_price_list_counts_real_tokens():
    node = node_of(price=TokenPrice(0.0, 10.0))
    assert cost.bill(node, request(output_tokens=100), Outcome(output_tokens=7)) == pytest.approx(70e-6)
    assert cost.bill(node, request(output_tokens=100), Outcome()) == pytest.approx(1e-3)


def test_seconds_use_the_given_output():
    assert node_of().seconds(request(output_tokens=100), 10) == pytest.approx(0.2)


def test_an_attempt_cut_short_costs_what_was_seen_of_it():
    node = node_of(price=MarginalPrice(3600.0))
    asked = request(output_tokens=100)  # 1.1 s by the curve
    assert cost.bill(node, asked, Outcome(reason=Reason.CLIENT_GONE, total=0.2)) == pytest.approx(0.2, abs=0.01)
    assert cost.bill(node, asked, Outcome(reason=Reason.UPSTREAM_LOST, total=9.0)) == pytest.approx(1.1)
    assert cost.bill(node, asked, Outcome(client_error=True, total=0.2)) == 0.0
    listed = node_of(price=TokenPrice(0.0, 10.0))
    assert cost.bill(listed, asked, Outcome(reason=Reason.CLIENT_GONE, output_tokens=3)) == pytest.approx(30e-6)
    assert cost.bill(listed, asked, Outcome(reason=Reason.CLIENT_GONE)) == 0.0


def test_reserved_seconds_are_paid_already():
    node = node_of(price=ReservedPrice(3600.0), egress_usd_per_gb=1.0)
    assert node.cost(request()) == pytest.approx(0.1 * cost.LEAST_WORTH), "idle: next to nothing"
    assert cost.bill(node, request(), Outcome(accelerator=5.0, reply_bytes=1_000_000)) == pytest.approx(0.001)
    assert cost.hourly(node.worker) == 3600.0
    assert cost.hourly(node_of(price=TokenPrice(1.0, 1.0)).worker) == 0.0


def test_what_reserved_capacity_is_worth_times_the_congestion_is_the_backlogs_price():
    for wait in (0.01, 0.1, 2.0):
        congestion = 1.0 + wait / 0.1
        assert cost.worth(congestion) * congestion == pytest.approx(wait / 0.1)
    assert cost.worth(1.0) == cost.LEAST_WORTH


def test_electricity_is_weighed_by_power_and_place():
    dirty, unknown = Terms(usd_per_kwh=0.1, usd_per_kg=1.0), Terms(usd_per_kg=1.0)
    made = worker("w", power_watts=3600.0)  # a kilowatt-hour in 1,000 s
    assert cost.drawn(made, dirty, 500.0) * 1000 == pytest.approx(0.1 + 0.5)
    assert cost.drawn(made, unknown, None) * 1000 == pytest.approx(cost.UNKNOWN_GRAMS / 1e3)
    green = worker("w", power_watts=3600.0, carbon_g_per_kwh=20.0)
    assert cost.drawn(green, dirty, 500.0) * 1000 == pytest.approx(0.1 + 0.02), "its own word counts"
    assert cost.drawn(worker("w"), dirty, 500.0) == 0.0


@pytest.mark.parametrize("price", [MarginalPrice(0.0), ReservedPrice(9.0), TokenPrice(0.0, 0.0)])
def test_what_is_weighed_beside_the_price_is_expected_and_billed(price):
    r = router(worker("w", endpoints=(endpoint(curve=CURVE),), price=price))
    (node,) = r.fleet.nodes()
    before = node.cost(request())
    r.fleet.weigh(lambda model, record: 2.0)  # dollars an accelerator second
    assert node.cost(request()) - before == pytest.approx(0.2)
    assert float(r.fleet.columns("chat").usd[0]) == pytest.approx(node.cost(request()))
    assert cost.bill(node, request(), Outcome(accelerator=0.5)) == pytest.approx(1.0)
    r.observe(WorkerSeen(worker("late", price=price)), 0.0)
    assert r.fleet.workers["late"].nodes[0].extra == 2.0


def test_an_engine_that_reports_no_accelerator_seconds_is_billed_a_slots_share_of_its_wall_time():
    curve = Curve(base=0.0, prefill=0.001, decode=0.01)
    r = router(worker("w", price=MarginalPrice(3600.0), endpoints=(endpoint(curve=curve, max_batch=4),)))
    (node,) = r.fleet.nodes()
    asked = request(prompt_tokens=100, output_tokens=101)
    assert cost.bill(node, asked, Outcome(output_tokens=101)) == pytest.approx(0.1 + 1.01 / 4)
    for _ in range(200):  # it takes twice as long as its curve says
        dispatch = r.route(asked, 0.0)
        r.report(dispatch, Outcome(total=2.22 + 0.001, output_tokens=101), 0.0)
    assert node.charge.samples == 0
    assert cost.bill(node, asked, Outcome(output_tokens=101)) == pytest.approx(2 * (0.1 + 1.01 / 4), rel=0.1)
    assert node.cost(asked) == pytest.approx(2 * (0.1 + 1.01 / 4), rel=0.1), "and expected to"
