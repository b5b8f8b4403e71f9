import pytest

from policies import cost
from policies.reason import Reason
from policies.records import Curve, MarginalPrice, TokenPrice
from policies.request import Outcome
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
