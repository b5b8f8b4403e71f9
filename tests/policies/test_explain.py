import msgspec
import pytest

from policies.explain import explain
from policies.request import DrainSet, Infeasible, Selection
from tests.fleets import endpoint, request, router, worker


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


def test_candidates_come_cheapest_first_with_their_verdicts(house):
    explanation = explain(house, request(deadline=0.35), 0.0)
    verdicts = [(c.worker, c.verdict.split(" by")[0]) for c in explanation.candidates]
    assert verdicts == [("farther", "too late"), ("far", "chosen"), ("near", "feasible, dearer")]
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


def test_exclusions_say_why(house):
    house.observe(DrainSet("near", True), 0.0)
    asked = request(selection=Selection(regions=(("home", "far"),)))
    verdicts = {c.worker: c.verdict for c in explain(house, asked, 0.0).candidates}
    assert verdicts == {"near": "draining", "far": "chosen", "farther": "region not allowed"}
    ignored = {
        c.worker: c.verdict for c in explain(house, request(selection=Selection(ignore=("far",))), 0.0).candidates
    }
    assert ignored["far"] == "excluded by provider"
    capped = {c.worker: c.verdict for c in explain(house, request(max_cost=2e-6), 0.0).candidates}
    assert capped["far"] == "above the price cap"


def test_quality_and_pace_are_named():
    r = router(worker("a"), worker("b", endpoints=(endpoint(variant="int8", quality=0.9),)))
    verdicts = {c.worker: c.verdict for c in explain(r, request(quality=0.95, min_quality=0.95), 0.0).candidates}
    assert verdicts == {"a": "chosen", "b": "quality below 0.95"}
    slow = explain(r, request(token_interval=-1.0, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert {c.verdict for c in slow.candidates} == {"first token or token pace too slow"}


def test_a_refusal_is_explained_too(house):
    e = explain(house, request(deadline=0.001, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert (e.decision, e.chosen) == ("deadline_infeasible", None)
    assert "ms more would do" in e.detail
    assert {c.verdict.split(" by")[0] for c in e.candidates} == {"too late"}
    assert explain(house, request(model="none"), 0.0).decision == "model_not_found"


def test_a_patient_request_has_no_probability_and_the_whole_encodes(house):
    e = explain(house, request(), 0.0)
    assert e.budget_s is None
    assert all(c.probability is None for c in e.candidates)
    assert msgspec.json.decode(msgspec.json.encode(e))["chosen"] == "farther/chat:fp32"


def test_verdict_and_figures_are_of_one_moment(house):
    e = explain(house, request(deadline=2.2), 2.0)  # loads are two seconds old by now
    for c in e.candidates:
        late = c.quantile_s - e.budget_s
        assert (late > 0) is c.verdict.startswith("too late"), c
        if late > 0:
            assert f"{late * 1e3:.0f} ms" in c.verdict
