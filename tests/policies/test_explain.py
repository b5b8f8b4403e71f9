import re

import msgspec
import pytest

from policies.config import NearestConfig, PolicyConfig
from policies.explain import explain
from policies.records import Curve, ReservedPrice
from policies.request import DrainSet, Hold, Infeasible, LoadSeen, Selection
from tests.fleets import endpoint, load, request, router, worker


@pytest.fixture
def house():
    return router(
        worker("near", usd_per_hour=4.0),
        worker("far", region="far", usd_per_hour=1.0),
        worker("farther", region="farther", usd_per_hour=0.5),
        rtt={"near": 0.002, "far": 0.2, "farther": 0.4},
    )


def test_it_agrees_with_the_decision_and_reserves_nothing(house):
    asked = request(deadline=0.35)
    explanation = explain(house, asked, 0.0)
    assert explanation.chosen == house.route(asked, 0.0).node.id
    assert explanation.decision == "feasible"
    assert house.open == 1


def test_in_overload_it_agrees_that_who_has_time_to_spare_waits(house):
    for name in ("near", "far", "farther"):
        house.observe(LoadSeen(load(name, 2, waiting=100, running=1, backlog=1.0), 0.0), 0.0)
    for _ in range(60):
        house.route(request(deadline=0.6), 0.0)
    patient = request(deadline=9.0)
    explanation = explain(house, patient, 0.0)
    held = house.route(patient, 0.0)
    assert isinstance(held, Hold)
    assert explanation.chosen is None
    assert explanation.hold_s == pytest.approx(held.until, abs=0.01)


def test_candidates_come_cheapest_first_with_their_verdicts(house):
    explanation = explain(house, request(deadline=0.35), 0.0)
    verdicts = [(c.worker, c.verdict.split(" by")[0]) for c in explanation.candidates]
    assert verdicts == [("farther", "too late"), ("far", "chosen"), ("near", "in time, but dearer")]
    for c in explanation.candidates:
        assert c.mean_s == pytest.approx(c.network_s + c.wait_s + c.prefill_s + c.decode_s)
        assert c.quantile_s > c.mean_s
    late, chosen, near = explanation.candidates
    assert late.probability < 0.95 < chosen.probability <= near.probability


def test_counterfactuals(house):
    e = explain(house, request(deadline=0.35), 0.0)
    assert (e.fastest.node, e.next_cheapest.node) == ("near/chat:fp32", "near/chat:fp32")
    assert e.fastest.extra_cost_usd > 0 > e.fastest.extra_s
    assert e.without_deadline.node == "farther/chat:fp32"
    assert e.without_deadline.extra_cost_usd < 0 < e.without_deadline.extra_s


def test_one_as_cheap_is_no_alternative_and_says_why_it_was_passed_over():
    r = router(
        worker("a", usd_per_hour=1.00),
        worker("b", usd_per_hour=1.04),
        worker("dear", usd_per_hour=2.0),
        rtt={"a": 0.03, "b": 0.01, "dear": 0.02},
    )
    e = explain(r, request(deadline=5.0), 0.0)
    verdicts = {c.worker: c.verdict for c in e.candidates}
    assert {verdicts["a"], verdicts["b"]} == {"chosen", "in time, as cheap (within 5%), not drawn"}
    assert verdicts["dear"] == "in time, but dearer"
    assert e.next_cheapest.node == "dear/chat:fp32"
    assert e.next_cheapest.extra_cost_usd > 0
    of_a_session = explain(r, request(deadline=5.0, affinity="s"), 0.0)
    assert "not this session's" in " ".join(c.verdict for c in of_a_session.candidates)


def test_a_policy_that_does_not_go_by_price_is_not_said_to():
    nodes = (worker("near", usd_per_hour=4.0), worker("far", usd_per_hour=1.0), worker("out", usd_per_hour=9.0))
    r = router(*nodes, rtt={"near": 0.002, "far": 0.1, "out": 0.2}, house=PolicyConfig(balancer=NearestConfig()))
    e = explain(r, request(deadline=5.0), 0.0)
    verdicts = {c.worker: c.verdict for c in e.candidates}
    assert e.chosen == "near/chat:fp32"
    assert verdicts["far"] == "in time and cheaper; policy or request prefers another"
    assert verdicts["out"] == "in time and dearer; policy or request prefers another"
    assert e.next_cheapest.node == "out/chat:fp32"


def test_best_effort_says_that_the_chosen_one_is_late(house):
    e = explain(house, request(deadline=0.001), 0.0)
    assert e.decision == "best_effort"
    (chosen,) = [c for c in e.candidates if c.node == e.chosen]
    assert re.fullmatch(r"chosen, although too late by \d+ ms at 95%", chosen.verdict)
    assert e.next_cheapest is None


def test_exclusions_say_why(house):
    house.observe(DrainSet("near", True), 0.0)
    asked = request(selection=Selection(regions=(("home", "far"),)))
    verdicts = {c.worker: c.verdict for c in explain(house, asked, 0.0).candidates}
    assert verdicts == {"near": "draining: it gets nothing new", "far": "chosen", "farther": "region not allowed"}
    ignored = {
        c.worker: c.verdict for c in explain(house, request(selection=Selection(ignore=("far",))), 0.0).candidates
    }
    assert ignored["far"] == "excluded by the request's `provider`"
    by_grpc = explain(house, request(selection=Selection(grpc=True)), 0.0)
    assert {c.verdict for c in by_grpc.candidates} == {"not reached over gRPC"}
    assert (by_grpc.decision, "POST it to /v2/models" in by_grpc.detail) == ("no_matching_node", True)
    capped = {c.worker: c.verdict for c in explain(house, request(max_cost=2e-6), 0.0).candidates}
    assert capped["far"] == "above the price cap"


def test_quality_and_pace_are_named():
    r = router(worker("a"), worker("b", endpoints=(endpoint(variant="int8", quality=0.9),)))
    verdicts = {c.worker: c.verdict for c in explain(r, request(quality=0.95, min_quality=0.95), 0.0).candidates}
    assert verdicts == {"a": "chosen", "b": "quality 0.9, below the 0.95 wanted"}
    writer = router(worker("a", endpoints=(endpoint(curve=Curve(0.01, decode=0.01)),)))
    (slow,) = explain(writer, request(token_interval=0.005, output_tokens=9), 0.0).candidates
    pace = float(re.fullmatch(r"chosen, although too slow: (\S+) ms a token at 95%, 5 ms are granted", slow.verdict)[1])
    assert 10 < pace < 30  # 10 ms and what its error allows for
    late = explain(r, request(first_token_deadline=0.001, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert all(re.fullmatch(r"first token too late by \d+ ms at 95%", c.verdict) for c in late.candidates)


def test_a_refusal_is_explained_too(house):
    e = explain(house, request(deadline=0.001, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert (e.decision, e.chosen) == ("deadline_infeasible", None)
    assert "ms more would do" in e.detail
    assert {c.verdict.split(" by")[0] for c in e.candidates} == {"too late"}
    assert explain(house, request(model="none"), 0.0).decision == "model_not_found"


def test_a_patient_request_has_no_probability_and_the_whole_encodes(house):
    e = explain(house, request(), 0.0)
    assert e.budget_s is None
    assert e.without_deadline is None  # it is one itself
    assert all(c.probability is None for c in e.candidates)
    assert msgspec.json.decode(msgspec.json.encode(e))["chosen"] == "farther/chat:fp32"


def test_verdict_and_figures_are_of_one_moment(house):
    e = explain(house, request(deadline=2.2), 2.0)  # loads are two seconds old by now
    for c in e.candidates:
        late = c.quantile_s - e.budget_s
        assert (late > 0) is c.verdict.startswith("too late"), c
        if late > 0:
            assert f"{late * 1e3:.0f} ms" in c.verdict


def test_both_bills_are_told():
    r = router(worker("paid", price=ReservedPrice(4.0), egress_usd_per_gb=0.1), worker("spot", usd_per_hour=1.0))
    told = explain(r, request(deadline=9.0, reply_bytes=1e6), 0.0)
    paid, spot = (next(c for c in told.candidates if c.worker == name) for name in ("paid", "spot"))
    assert told.fleet_usd_per_hour == 5.0
    assert (paid.cost_mode, spot.cost_mode) == ("reserved", "marginal")
    assert paid.marginal_usd == pytest.approx(1e-4), "its egress"
    assert paid.cost_usd > paid.marginal_usd
    assert spot.marginal_usd == pytest.approx(spot.cost_usd)
    assert explain(r, request(model="none"), 0.0).fleet_usd_per_hour == 0.0


def test_what_holding_would_do_is_told_and_not_done():
    r = router(worker("w"))
    r.observe(LoadSeen(load("w", 2, waiting=500, running=1, backlog=5.0), 0.0), 0.0)
    asked = request(deadline=2.0, when_infeasible=(Infeasible.HOLD,))
    told = explain(r, asked, 0.0)
    assert (told.decision, told.chosen, told.waiting) == ("hold", None, 0)
    assert 1.0 < told.hold_s < 2.0
    assert not r.waiting.lines
    r.route(asked, 0.0)
    assert explain(r, asked, 0.0).waiting == 1
