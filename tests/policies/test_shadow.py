import random

import pytest

from policies.config import CheapestInDeadlineConfig, LowestCostConfig, NearestConfig, PolicyConfig, RoundRobinConfig
from policies.explain import explain
from policies.fleet import Fleet
from policies.reason import Reason
from policies.request import Dispatch, Infeasible, LoadSeen, Outcome, RoundTrip, Shed, WorkerSeen
from policies.router import Router
from policies.shadow import OWN, SHADOW, Shadow, Shadowed
from tests.fleets import load, request, router, worker

NODES = (worker("near", usd_per_hour=4.0), worker("far", region="far", usd_per_hour=1.0))
RTT = {"near": 0.002, "far": 0.2}


def shadowed(balancer, share: float = 1.0, seed: int = 1) -> Shadowed:
    """The house policy with a shadow, over a dear node here and a cheap one far away."""
    rng = random.Random(seed)
    fleet = Fleet(rng)
    shadow = Shadow("other", PolicyConfig(balancer).build(), fleet, share, random.Random(7))
    r = Shadowed(fleet, {"house": PolicyConfig().build()}, rng, lambda model: shadow)
    for record in NODES:
        r.observe(WorkerSeen(record), 0.0)
        for _ in range(20):
            r.observe(RoundTrip(record.id, RTT[record.id]), 0.0)
        r.observe(LoadSeen(load(record.id), 0.0), 0.0)
    return r


def served(r: Router, count: int, **fields: object) -> list[Dispatch]:
    found = []
    for _ in range(count):
        decision = r.route(request(**fields), 0.0)
        assert isinstance(decision, Dispatch)
        r.report(decision, Outcome(total=0.01), 0.01)
        found.append(decision)
    return found


def test_the_shadow_changes_nothing():
    for balancer in (NearestConfig(), RoundRobinConfig(), CheapestInDeadlineConfig()):
        own, plain = shadowed(balancer), router(*NODES, rtt=RTT)
        for r in (own, plain):
            assert [d.node.worker.id for d in served(r, 30, deadline=9.0)] == ["far"] * 30
            assert r.open == 0
        assert own._rng.getstate() == plain._rng.getstate(), "it has a chance of its own"
        assert own.fleet.columns("chat").routed == plain.fleet.columns("chat").routed
        assert own.shadow("chat").asked == 30


def test_where_both_promise_the_dearer_one_has_regret():
    r = shadowed(NearestConfig())
    served(r, 10, deadline=9.0)
    shadow = r.shadow("chat")
    own, other = shadow.tallies[OWN], shadow.tallies[SHADOW]
    assert (shadow.asked, shadow.agreed, shadow.both) == (10, 0, 10)
    assert (own.promised, other.promised, own.refused, other.refused) == (10, 10, 0, 0)
    assert other.cost > 3 * own.cost
    assert shadow.regret == pytest.approx(own.cost - other.cost)
    assert own.chance == pytest.approx(10, rel=0.01)


def test_a_cheaper_pick_that_comes_late_is_no_regret():
    r = shadowed(LowestCostConfig())
    served(r, 5, deadline=0.1)
    shadow = r.shadow("chat")
    assert (shadow.agreed, shadow.regret) == (0, 0.0)
    assert shadow.tallies[SHADOW].promised == 0
    assert shadow.tallies[SHADOW].chance < 1.0 < shadow.tallies[OWN].chance


def test_refusals_are_counted_on_either_side():
    r = shadowed(LowestCostConfig())
    refused = r.route(request(deadline=0.0001, when_infeasible=(Infeasible.REJECT,)), 0.0)
    assert isinstance(refused, Shed)
    assert refused.reason is Reason.DEADLINE_INFEASIBLE
    shadow = r.shadow("chat")
    assert (shadow.tallies[OWN].refused, shadow.tallies[SHADOW].refused, shadow.agreed, shadow.both) == (1, 1, 1, 0)


def test_only_a_share_of_first_attempts_is_put_to_it():
    r = shadowed(NearestConfig(), share=0.25)
    served(r, 400, deadline=9.0)
    asked = r.shadow("chat").asked
    assert 60 < asked < 140  # binomial: 100 +- 4.6 standard deviations of 8.7
    again = r.route(request(deadline=9.0), 0.0, avoid=("near",))
    assert isinstance(again, Dispatch)
    r.route(request(model="none"), 0.0)
    assert r.shadow("chat").asked <= asked + 1


def test_figures_outlive_a_reload():
    earlier, later = (shadowed(NearestConfig()).shadow("chat") for _ in range(2))
    earlier.asked, earlier.regret = 7, 0.5
    later.adopt(earlier)
    assert (later.asked, later.regret, later.tallies) == (7, 0.5, earlier.tallies)


def test_an_explanation_says_what_the_shadow_would_do():
    r = shadowed(NearestConfig())
    told = explain(r, request(deadline=9.0), 0.0).shadow
    assert (told.policy, told.decision, told.node, told.agrees) == ("other", "feasible", "near/chat:fp32", False)
    assert told.probability == pytest.approx(1.0, abs=0.01)
    assert explain(r, request(deadline=0.1), 0.0).shadow.agrees
    refused = explain(r, request(deadline=0.0001, when_infeasible=(Infeasible.REJECT,)), 0.0).shadow
    assert (refused.node, refused.decision, refused.agrees) == (None, "deadline_infeasible", True)
    assert r.shadow("chat").asked == 0, "an explanation is no traffic"
    assert explain(router(*NODES), request(), 0.0).shadow is None
