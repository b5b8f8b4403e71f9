import random

import msgspec
import pytest

from policies.admission import CROWDED_GAIN
from policies.candidates import Candidates
from policies.config import PolicyConfig
from policies.hedge import BALANCE_CAP, LATENESS, HedgeConfig, Hedging, still
from policies.reason import Reason
from policies.records import Curve
from policies.request import INFINITE, Dispatch, Hold, LoadSeen, Outcome, Shed, Status, WorkerSeen
from tests.fleets import endpoint, load, request, router, worker

TEXT = (endpoint(curve=Curve(0.05, decode=0.01), max_batch=8),)


def pair(share=1.0, usd=(1.0, 1.5), regions=("home", "far"), **fields):
    """A cheap worker `a` and others, each in its region, whose policy hedges."""
    names = "abcdef"[: len(usd)]
    records = [
        worker(name, usd_per_hour=price, region=region, endpoints=TEXT)
        for name, price, region in zip(names, usd, regions, strict=True)
    ]
    return router(*records, house=PolicyConfig(hedge=HedgeConfig(share=share, **fields)))


def hedged(r, asked, at=None):
    """Route at 0 and, when its hedge is due (or at `at`), ask for it, as often as told to wait; loads are fresh."""
    first = r.route(asked, 0.0)
    now = first.hedge_at if at is None else at
    while isinstance(decision := ask(r, first, now), Hold):
        assert decision.until > now
        now = decision.until
    return first, decision, now


def ask(r, first, now):
    for state in r.fleet.workers.values():
        r.observe(LoadSeen(msgspec.structs.replace(state.load, seq=state.load.seq + 1), 0.0), now)
    return r.route(first.request, now, (first.node.worker.id,), first)


def test_a_policy_does_not_hedge_unless_told_to():
    first = router(worker("a"), worker("b")).route(request(deadline=1.0), 0.0)
    assert first.hedge_at == INFINITE
    r = router(worker("a"), worker("b"))
    assert isinstance(r.route(request(deadline=1.0), 0.5, ("a",), r.route(request(deadline=1.0), 0.0)), Shed)


def test_a_hedge_waits_for_the_last_instant_at_which_another_is_in_time():
    r = pair()
    asked = request(deadline=2.0, output_tokens=10.0, stream=True)
    first, second, now = hedged(r, asked)
    eta = second.eta
    assert (first.node.worker.id, second.node.worker.id, second.hedge) == ("a", "b", True)
    z = r.fleet.calibration.quantiles(0.95, "")[0]
    assert now + eta.total + z * eta.spread == pytest.approx(2.0, abs=0.03)
    assert now + eta.total + z * eta.spread <= 2.0
    assert second.hedge_at == INFINITE, "a hedge is not hedged"


def test_it_does_not_wait_where_nobody_would_be_in_time_any_more():
    r = pair()
    asked = request(deadline=2.0, output_tokens=10.0, stream=True)
    first, second, _ = hedged(r, asked, at=1.87)
    assert isinstance(second, Dispatch)
    assert r.fleet.calibration.chance(asked, second.eta, 1.87) < 0.95
    assert second.status is first.status is Status.FEASIBLE, "the promise of the pair is that of the first"


def test_a_first_byte_is_late_after_nearly_all_of_its_node():
    r = pair()
    stream = r.route(request(deadline=2.0, output_tokens=10.0, stream=True), 0.0)
    eta, z = stream.eta, r.fleet.calibration.first.quantile(0.95)
    assert stream.hedge_at == pytest.approx(eta.first_token + z * eta.first_spread)
    unary = r.route(request(deadline=2.0, output_tokens=10.0), 0.0)
    z = r.fleet.calibration.total.quantile(0.95)
    assert unary.hedge_at == pytest.approx(unary.eta.total + z * unary.eta.spread), "its first byte is its last"


@pytest.mark.parametrize("asked", [request(), request(token_interval=0.5), request(deadline=0.01)])
def test_without_a_promise_there_is_no_hedge(asked):
    assert pair().route(asked, 0.0).hedge_at == INFINITE


def test_another_region_is_preferred_where_it_is_in_time():
    r = pair(usd=(1.0, 1.1, 1.5), regions=("home", "home", "far"))
    assert hedged(r, request(deadline=2.0, output_tokens=10.0))[1].node.worker.id == "c"
    r = pair(usd=(1.0, 1.1, 1.5), regions=("home", "home", "far"))
    r.observe(LoadSeen(load("c", 2, waiting=90, running=8, backlog=9.0), 0.0), 0.0)
    assert hedged(r, request(deadline=2.0, output_tokens=10.0))[1].node.worker.id == "b"


def test_a_hedge_must_be_worth_its_price():
    asked = request(deadline=2.0, output_tokens=10.0)
    assert isinstance(hedged(pair(usd=(1.0, 9.0)), asked)[1], Dispatch)
    shed = hedged(pair(usd=(1.0, 20.0)), asked)[1]
    assert (shed.reason, shed.detail) == (Reason.NO_CAPACITY, "A hedge would cost more than it is worth.")
    assert isinstance(hedged(pair(usd=(1.0, 20.0), worth=100.0), asked)[1], Dispatch)


def test_where_the_first_costs_nothing_the_second_s_price_is_the_measure():
    assert isinstance(hedged(pair(usd=(0.0, 5.0)), request(deadline=2.0, output_tokens=10.0))[1], Dispatch)


def test_hedges_stay_within_their_share_of_requests():
    r, sent = pair(share=0.02), 0
    for number in range(1000):
        asked = request(id=str(number), deadline=0.4, output_tokens=10.0)
        first = r.route(asked, 0.0)
        second = r.route(asked, 0.37, (first.node.worker.id,), first)
        if isinstance(second, Dispatch):
            sent += 1
            r.report(second, Outcome(reason=Reason.OUTRUN, total=0.01), 0.0)
        r.report(first, Outcome(first_byte=0.1, total=0.1), 0.0)
    assert 15 <= sent <= 1 + 0.02 * 1000


def filled(requests, crowded=False, **fields):
    """A budget after so many first attempts."""
    hedging, r = Hedging(HedgeConfig(**fields)), pair()
    columns = r.fleet.columns("chat")
    candidates = Candidates(columns, request(deadline=1.0), columns.accepts, 0.0)
    eta = columns.nodes[0].eta(candidates.request, 0.0)
    for _ in range(requests):
        hedging.due(candidates, Status.FEASIBLE, eta, crowded, 0.0)
    return hedging._balance


def test_while_the_fleet_is_crowded_half_as_many_are_saved_up_and_none_goes_where_nobody_is_likely_in_time():
    assert filled(100) - filled(0) == pytest.approx(2.0)
    assert filled(100, crowded=True) - filled(0) == pytest.approx(1.0)
    r = pair()
    overload = r._policies["house"].overload
    for _ in range(int(1 / CROWDED_GAIN)):
        overload.routed(crowded_out=True)
    assert isinstance(hedged(r, request(deadline=2.0, output_tokens=10.0), at=1.87)[1], Shed)


def test_what_is_saved_up_is_bounded():
    assert filled(1000, share=1.0) == BALANCE_CAP


def test_while_the_first_is_likelier_to_answer_the_hedge_waits():
    """Its silence is late for its node, but nobody has been seen to take much longer, and there is time."""
    fast = (endpoint(curve=Curve(0.04), max_batch=8),)
    records = worker("a", endpoints=TEXT), worker("b", usd_per_hour=3.0, endpoints=fast)
    r = router(*records, house=PolicyConfig(hedge=HedgeConfig(share=1.0)))
    eta = r.fleet.workers["a"].nodes[0].eta(request(output_tokens=10.0), 0.0)
    first = r.route(request(deadline=eta.total + 5.0 * eta.spread, output_tokens=10.0), 0.0)
    assert first.node.worker.id == "a"
    hold = ask(r, first, now := eta.total + 1.9 * eta.spread)
    assert isinstance(hold, Hold)
    assert hold.until - now == pytest.approx(LATENESS)
    second = ask(r, first, eta.total + 2.6 * eta.spread)
    assert isinstance(second, Dispatch), "by now it has been silent for longer than anybody"


def test_silence_lowers_the_chance_of_the_first():
    r = pair()
    calibration = r.fleet.calibration
    first = r.route(request(deadline=0.4, first_token_deadline=0.3, output_tokens=10.0, stream=True), 0.0)
    chances = [still(calibration, first, now) for now in (0.0, 0.05, 0.1, 0.2, 0.29, 0.5)]
    assert chances[0] == pytest.approx(calibration.chance(first.request, first.eta, 0.0), abs=0.01)
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] == 0.0


def test_the_chance_of_the_silent_is_what_is_seen_among_as_late_ones():
    """Against the definition: of drawn times that are later than its silence, the share that is in time."""
    r, rng = pair(), random.Random(3)
    calibration = r.fleet.calibration
    first = r.route(request(deadline=0.5, output_tokens=10.0), 0.0)
    for _ in range(2000):
        calibration.total.observe(rng.gauss(0.5, 2.0))
    eta = first.eta
    times = [eta.total + eta.spread * residual for residual in calibration.total._sorted.tolist()]
    silent, deadline = eta.total + eta.spread, eta.total + 2.5 * eta.spread
    late = [time for time in times if time > silent]
    expected = sum(time <= deadline for time in late) / len(late)
    asked = Dispatch(request(deadline=deadline, output_tokens=10.0), first.node, 0.0, 1, first.status, eta, 0.0)
    assert still(calibration, asked, silent) == pytest.approx(expected, abs=1e-3)


def test_who_lost_the_race_says_nothing_of_its_worker_and_nothing_of_the_promise():
    r = pair()
    first, second, now = hedged(r, request(deadline=2.0, output_tokens=10.0))
    state, promise = r.fleet.workers["a"], r.fleet.calibration.promise(0.95)
    seen = (state.health._attempts, state.health.rests_until, promise.settled_count, promise.eps)
    tokens = r._policies["house"].budget._tokens
    r.report(first, Outcome(reason=Reason.OUTRUN, total=now), now)
    assert seen == (state.health._attempts, state.health.rests_until, promise.settled_count, promise.eps)
    assert r._policies["house"].budget._tokens == tokens
    r.report(second, Outcome(first_byte=0.1, total=0.1), now + 0.1)
    assert promise.settled_count == 1, "the pair gave one promise, and keeps it once"
    assert r.open == 0


def test_a_model_that_is_gone_cannot_be_hedged():
    r = pair()
    first = r.route(request(deadline=2.0), 0.0)
    for name in "ab":
        r.observe(WorkerSeen(worker(name, seq=2, region="x", endpoints=(endpoint(model="other"),))), 1.0)
    assert isinstance(r.route(first.request, 1.0, ("a",), first), Shed)
