import pytest

from policies.reason import Reason
from policies.records import Curve
from policies.request import Dispatch, DrainSet, LoadSeen, Outcome
from policies.worker import KNEE, MIN_HEADROOM
from tests.fleets import endpoint, load, only_node, request, worker


def test_reported_backlog_is_waited_for_and_drains():
    r, node = only_node()
    r.observe(LoadSeen(load("w", 2, waiting=3, running=4, backlog=0.8), 0.0), 0.0)
    assert node.eta(request(), 0.0).wait == pytest.approx(0.8)
    assert node.eta(request(), 0.5).wait == pytest.approx(0.3)


def test_a_queue_is_only_a_wait_when_no_slot_is_free():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(base=0.02), max_batch=4),)))
    for _ in range(4):
        assert node.eta(request(), 0.0).wait == 0.0
        assert isinstance(r.route(request(), 0.0), Dispatch)
    assert node.eta(request(), 0.0).wait == pytest.approx(4 * 0.02 / 4)


def test_prefill_is_serial_so_what_is_ahead_is_a_wait_with_slots_free():
    r, node = only_node()
    for ahead in range(3):
        assert node.eta(request(), 0.0).wait == pytest.approx(ahead * 0.12)
        assert isinstance(r.route(request(prompt_tokens=100, output_tokens=100), 0.0), Dispatch)


def test_what_others_send_is_counted_and_keeps_a_queue_from_draining():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.05, decode=0.01), max_batch=64),)))
    state = node.state
    for second in range(1, 30):
        r.observe(LoadSeen(load("w", second + 1, arrived=12 * second), 0.0), float(second))
        for _ in range(2):
            dispatch = r.route(request(output_tokens=1), float(second))
            r.report(dispatch, Outcome(), second + 0.1)
    assert state.strangers == pytest.approx(10.0, rel=0.1), "twelve arrive a second, two of them ours"
    r.observe(LoadSeen(load("w", 31, arrived=12 * 30, waiting=8, running=1, backlog=0.4), 0.0), 30.0)
    drained = 0.4 - state.wait(30.2)
    assert drained == pytest.approx(0.2 * (1.0 - state.strangers * state.service), rel=0.05)


def test_the_first_requests_already_say_how_long_they_keep_the_next_one_waiting():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.01, prefill=0.001, decode=0.01)),)))
    assert node.state.service == pytest.approx(0.01 + 0.064), "a typical prompt of 64 tokens"
    for second in range(8):
        r.report(r.route(request(prompt_tokens=1000, output_tokens=1), float(second)), Outcome(), second + 0.5)
    assert node.state.service == pytest.approx(1.01, rel=0.25)


def test_headroom_is_what_is_served_unseen_and_what_fits_before_the_knee():
    _, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.05)),)))
    state = node.state
    unheard = state.unheard(0.0)
    idle = state.headroom(0.0, unheard)
    assert idle == pytest.approx((0.05 + KNEE) / 0.05, rel=0.05)
    assert state.headroom(0.1, unheard) < idle < state.headroom(0.0, state.unheard(1.0))
    assert state.headroom(9.0, unheard) == MIN_HEADROOM


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


def test_text_that_waits_in_an_engine_without_a_backlog_waits_for_slots():
    curve = Curve(base=0.01, prefill=1e-5, decode=0.02)
    r, node = only_node(worker("w", endpoints=(endpoint(curve=curve, max_batch=4),)))
    r.observe(LoadSeen(load("w", 2, waiting=0, running=4, backlog=None), 0.0), 0.0)
    for second in range(3):
        sent = r.route(request(prompt_tokens=10, output_tokens=100), float(second))
        r.report(sent, Outcome(reason=Reason.CLIENT_GONE), second + 0.5)
    r.observe(LoadSeen(load("w", 3, waiting=20, running=4, backlog=None), 0.0), 4.0)
    assert node.state.wait(4.0) == pytest.approx(20 * 2.0 / 4, rel=0.1), "two seconds of decoding each, in four slots"
