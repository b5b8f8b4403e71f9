import pytest

from policies.records import Curve
from policies.request import Dispatch, DrainSet, LoadSeen, Outcome
from tests.fleets import endpoint, load, request, router, worker

CHAT = endpoint(curve=Curve(base=0.02, prefill=0.001, decode=0.01), max_batch=4)


def only_node(record=None, **rtt):
    r = router(record or worker("w", endpoints=(CHAT,)), rtt=rtt or {"w": 0.1})
    return r, r.fleet.nodes()[0]


def test_eta_parts():
    _, node = only_node()
    eta = node.eta(request(prompt_tokens=100, output_tokens=20), 0.0)
    assert eta.network == pytest.approx(0.1, rel=0.01)
    assert eta.wait == 0.0
    assert eta.prefill == pytest.approx(0.12)
    assert eta.decode == pytest.approx(0.2)
    assert eta.spread > 0.1 * 0.32, "at least the prior error of the compute"


def test_an_uncertain_length_widens_the_spread_and_nothing_else():
    _, node = only_node()
    sure, unsure = (node.eta(request(output_tokens=20, output_deviation=d), 0.0) for d in (0.0, 5.0))
    assert unsure.total == sure.total
    assert unsure.spread - sure.spread == pytest.approx(5 * 0.01)


def test_spread_grows_with_the_age_of_the_load():
    _, node = only_node()
    spreads = [node.eta(request(), now).spread for now in (0.0, 0.5, 2.0)]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[2]


def test_reported_backlog_is_waited_for_and_drains():
    r, node = only_node()
    r.observe(LoadSeen(load("w", 2, waiting=3, running=4, backlog=0.8), 0.0), 0.0)
    assert node.eta(request(), 0.0).wait == pytest.approx(0.8)
    assert node.eta(request(), 0.5).wait == pytest.approx(0.3)


def test_a_queue_is_only_a_wait_when_no_slot_is_free():
    r, node = only_node()
    work = node.work(request(output_tokens=100))
    for _ in range(4):
        assert node.eta(request(), 0.0).wait == 0.0
        assert isinstance(r.route(request(output_tokens=100), 0.0), Dispatch)
    assert node.eta(request(), 0.0).wait == pytest.approx(4 * work)


def test_our_own_requests_are_not_counted_twice():
    r, node = only_node()
    for _ in range(8):
        r.route(request(output_tokens=100), 0.0)
    before = node.state.wait(0.2)
    r.observe(LoadSeen(load("w", 2, waiting=4, running=4, backlog=0.5), 0.0), 0.2)  # it contains all eight
    assert before > 0
    assert node.state.wait(0.2) == pytest.approx(0.5)
    assert node.state.outstanding(0.2) == 8


def test_a_load_from_before_a_dispatch_does_not_hide_it():
    r, node = only_node(w=0.1)
    r.route(request(output_tokens=100), 1.0)
    r.observe(LoadSeen(load("w", 2), 0.0), 1.02)  # sent 20 ms ago, 50 ms away: it cannot have arrived
    assert node.state.outstanding(1.02) == 1


def test_unknown_load_falls_back_to_own_requests_in_flight():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.1), max_batch=1),)))
    r.observe(LoadSeen(load("w", 2, waiting=None, running=None, backlog=None), 0.0), 0.0)
    assert node.state.wait(0.0) == 0.0
    for _ in range(3):
        r.route(request(), 0.0)
    assert node.state.wait(0.0) == pytest.approx(2 * 0.1)


def test_a_queue_without_a_backlog_figure_is_priced_by_typical_work():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.1), max_batch=1),)))
    r.observe(LoadSeen(load("w", 2, waiting=20, running=1, backlog=None), 0.0), 0.0)
    assert node.state.wait(0.0) == pytest.approx(20 * 0.1)


def test_speed_and_charge_are_learned_from_reports():
    r, node = only_node()
    asked = request(prompt_tokens=100, output_tokens=20, stream=True)  # 0.32 s by the curve
    for i in range(60):
        now = float(i)
        r.observe(LoadSeen(load("w", i + 2), 0.0), now)
        dispatch = r.route(asked, now)
        outcome = Outcome(
            first_byte=0.36, total=0.8, queue=0.0, prefill=0.24, decode=0.4, accelerator=0.16, output_tokens=20
        )
        r.report(dispatch, outcome, now + 0.8)
    assert node.speed.factor == pytest.approx(2.0, rel=0.05)
    assert node.charge.factor == pytest.approx(0.5, rel=0.05)
    eta = node.eta(asked, 60.0)
    assert eta.prefill + eta.decode == pytest.approx(0.64, rel=0.05)
    assert eta.network == pytest.approx(0.12, abs=0.01), "round trip plus 20 ms of overhead"


def test_foreign_engines_are_learned_from_the_whole():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.1), max_batch=1),)))
    for i in range(60):
        dispatch = r.route(request(), float(i))
        r.report(dispatch, Outcome(first_byte=0.29, total=0.3), i + 0.3)
    assert node.speed.factor == pytest.approx(2.0, rel=0.05)


def test_draining_comes_from_the_worker_or_an_operator():
    r, node = only_node()
    assert node.accepts(0.0)
    r.observe(LoadSeen(load("w", 2, draining=True), 0.0), 0.0)
    assert not node.accepts(0.0)
    r.observe(DrainSet("w", True), 0.0)
    r.observe(LoadSeen(load("w", 3), 0.0), 0.0)
    assert not node.accepts(0.0), "the operator's drain outlives the worker's"
    r.observe(DrainSet("w", False), 0.0)
    assert node.accepts(0.0)


def test_what_was_learned_fades_without_answers():
    r, node = only_node()
    for i in range(30):
        dispatch = r.route(request(output_tokens=20), float(i))
        r.report(
            dispatch, Outcome(first_byte=0.3, total=1.0, queue=0.0, prefill=0.2, decode=2.0, output_tokens=20), i + 0.5
        )
    slow = node.speed.factor
    assert slow > 4.0
    cost = node.columns.output[0]
    for i in range(60):
        r.tick(30.0 + i)
    assert 1.0 < node.speed.factor < slow**0.6, "one half-life: about the square root is left"
    assert node.columns.output[0] < cost


def test_one_stall_moves_the_network_little_and_fades():
    r, node = only_node()
    dispatch = r.route(request(stream=True), 0.0)
    r.report(dispatch, Outcome(first_byte=8.0, total=8.1, queue=0.0, prefill=0.02, decode=0.0), 8.1)
    assert node.network() < 0.12
    before = node.network()
    for i in range(120):
        r.tick(10.0 + i)
    assert node.network() - 0.1 < 0.5 * (before - 0.1)


def test_old_loads_are_not_counted_on():
    r, node = only_node()
    r.observe(LoadSeen(load("w", 2, waiting=50, running=4), 0.0), 0.0)
    assert (node.state.outstanding(1.0), node.state.outstanding(4.0)) == (54, 0)
