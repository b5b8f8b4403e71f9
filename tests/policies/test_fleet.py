import pytest

from policies.fleet import SWEEP_SHARE
from policies.health import State
from policies.reason import Reason
from policies.request import DrainSet, LoadSeen, Outcome, ProbeFailed, RoundTrip, Selection, WorkerGone, WorkerSeen
from tests.fleets import MODEL, endpoint, load, request, router, worker


def fail(r, times: int, reason: Reason = Reason.UPSTREAM_LOST, now: float = 0.0, only: str = "w0"):
    for _ in range(times):
        asked = request(selection=Selection(only=(only,)))
        dispatch = r.route(asked, now)
        r.report(dispatch, Outcome(reason=reason), now)


def test_a_surviving_worker_keeps_its_history():
    r = router(worker("w"), rtt={"w": 0.07})
    node = r.fleet.nodes()[0]
    node.speed.observe(3.0)
    r.observe(WorkerSeen(worker("w", seq=2, usd_per_hour=9.0)), 1.0)
    assert r.fleet.nodes() == [node]
    assert node.speed.samples == 1
    assert node.state.rtt.mean == pytest.approx(0.07)
    assert r.fleet.columns(MODEL).usd[0] == pytest.approx(9.0 / 3600 * 0.01 * node.speed.factor), "billed by the clock"


def test_records_and_loads_never_go_backwards():
    r = router(worker("w", seq=5))
    r.observe(WorkerSeen(worker("w", seq=4, usd_per_hour=99.0)), 1.0)
    assert r.fleet.workers["w"].record.seq == 5
    r.observe(WorkerSeen(worker("w", seq=5, usd_per_hour=2.0)), 1.0)
    assert r.fleet.workers["w"].record.price.usd_per_hour == 2.0, "edited in place: a different record is news"
    r.observe(LoadSeen(load("w", 9, waiting=9), 0.0), 1.0)
    r.observe(LoadSeen(load("w", 8, waiting=8), 0.0), 1.0)
    r.observe(LoadSeen(load("w", 10, waiting=7, boot="old"), 0.0), 1.0)
    assert r.fleet.workers["w"].load.waiting == 9


def test_a_report_without_a_sequence_is_the_newest_until_the_next_heartbeat():
    r = router(worker("w"))
    r.observe(LoadSeen(load("w", 9, waiting=9), 0.0), 1.0)
    r.observe(LoadSeen(load("w", 9, waiting=3), 0.0, newest=True), 1.0)
    assert r.fleet.workers["w"].load.waiting == 3
    r.observe(LoadSeen(load("w", 9, waiting=9), 0.0), 1.0)
    assert r.fleet.workers["w"].load.waiting == 3, "the same heartbeat again is no news"
    r.observe(LoadSeen(load("w", 4, waiting=1, boot="old"), 0.0, newest=True), 1.0)
    assert r.fleet.workers["w"].load.waiting == 3
    r.observe(LoadSeen(load("w", 10, waiting=5), 0.0), 1.0)
    assert r.fleet.workers["w"].load.waiting == 5


def test_a_new_boot_starts_its_loads_anew():
    r = router(worker("w"))
    r.observe(LoadSeen(load("w", 1000, waiting=9), 0.0), 1.0)
    r.observe(WorkerSeen(worker("w", seq=2, boot="b2")), 2.0)
    r.observe(LoadSeen(load("w", 1, boot="b2", waiting=1), 0.0), 2.0)
    assert r.fleet.workers["w"].load.waiting == 1


def test_endpoints_come_and_go():
    r = router(worker("w", endpoints=(endpoint(), endpoint(variant="int8"))))
    assert len(r.fleet.nodes(MODEL)) == 2
    r.observe(WorkerSeen(worker("w", seq=2, endpoints=(endpoint(variant="int8"), endpoint(model="new")))), 1.0)
    assert r.fleet.models() == [MODEL, "new"]
    assert [n.endpoint.variant for n in r.fleet.nodes(MODEL)] == ["int8"]
    r.observe(WorkerGone("w"), 2.0)
    assert r.fleet.models() == []


def test_unknown_workers_are_ignored():
    r = router(worker("w"))
    for change in (RoundTrip("x", 0.1), ProbeFailed("x"), WorkerGone("x"), DrainSet("x", True), LoadSeen(load("x"), 0)):
        r.observe(change, 0.0)
    assert list(r.fleet.workers) == ["w"]


def test_a_new_worker_starts_from_its_regions_round_trips():
    r = router(worker("a", region="far"), rtt={"a": 0.25})
    r.observe(WorkerSeen(worker("b", region="far")), 0.0)
    assert r.fleet.workers["b"].rtt.mean == pytest.approx(0.25, rel=0.01)


def test_failures_eject_and_time_brings_back():
    r = router(*(worker(f"w{i}") for i in range(4)))
    fail(r, 5)
    state = r.fleet.workers["w0"]
    assert state.health.state is State.EJECTED
    assert not r.fleet.nodes()[0].accepts(1.0)
    for _ in range(4):
        r.tick(state.health.until + 0.01)
    assert state.health.state is State.PROBING


def test_a_silent_worker_is_ejected_by_missed_deadlines_but_a_slow_stream_is_not():
    r = router(*(worker(f"w{i}") for i in range(4)))
    fail(r, 5, Reason.DEADLINE_EXCEEDED, only="w1")
    assert r.fleet.workers["w1"].health.state is State.EJECTED
    for _ in range(6):
        dispatch = r.route(request(), 0.0)
        r.report(dispatch, Outcome(reason=Reason.DEADLINE_EXCEEDED, first_byte=0.1), 0.0)
    assert sum(s.health.state is State.EJECTED for s in r.fleet.workers.values()) == 1


def test_failed_probes_eject():
    r = router(worker("w0"), worker("w1"))
    for _ in range(3):
        r.observe(ProbeFailed("w0"), 0.0)
    assert r.fleet.workers["w0"].health.state is State.EJECTED


def test_never_more_than_half_and_never_the_last_is_ejected():
    r = router(*(worker(f"w{i}") for i in range(5)))
    for i in range(5):
        for _ in range(3):
            r.observe(ProbeFailed(f"w{i}"), 0.0)
    assert sum(s.health.state is State.EJECTED for s in r.fleet.workers.values()) == 2
    alone = router(worker("w0"))
    fail(alone, 10)
    assert alone.fleet.workers["w0"].health.state is State.SERVING


def test_a_refusal_rests_the_worker_for_a_heartbeat():
    r = router(worker("w0"), worker("w1"))
    fail(r, 1, Reason.REFUSED)
    node = r.fleet.workers["w0"].nodes[0]
    assert not node.accepts(0.1)
    assert node.accepts(0.3)
    assert node.state.health.state is State.SERVING


def test_ticks_reach_every_worker_in_a_second():
    r = router(*(worker(f"w{i}") for i in range(50)))
    columns = r.fleet.columns(MODEL)
    before = columns.spread.copy()
    for i in range(SWEEP_SHARE + 5):
        r.tick(1.0 + i / SWEEP_SHARE)
    assert (columns.spread > before).all(), "ages have grown in every row"


def test_a_clients_errors_teach_nothing_about_the_node():
    r = router(worker("w"))
    node = r.fleet.nodes()[0]
    for _ in range(30):
        dispatch = r.route(request(), 0.0)
        r.report(dispatch, Outcome(client_error=True, first_byte=0.0005, total=0.0005), 0.0)
    assert node.speed.samples == 0
    assert node.state.health.state is State.SERVING


def test_the_last_one_serving_is_not_ejected_while_others_drain():
    r = router(*(worker(f"w{i}") for i in range(3)))
    r.observe(DrainSet("w1", True), 0.0)
    r.observe(DrainSet("w2", True), 0.0)
    for _ in range(3):
        r.observe(ProbeFailed("w0"), 0.0)
    assert r.fleet.workers["w0"].health.state is State.SERVING


def test_a_newcomer_among_others_that_serve_starts_slowly():
    r = router(worker("old"))
    assert not r.fleet.workers["old"].health.slow, "at a cold start all are new"
    r.observe(WorkerSeen(worker("early")), 0.0)
    assert not r.fleet.workers["early"].health.slow, "nothing has been routed yet"
    r.route(request(), 0.0)
    r.observe(WorkerSeen(worker("late")), 1.0)
    late = r.fleet.workers["late"]
    assert late.health.slow == 2
    late.in_flight = 2
    assert not late.accepts(1.0)
    r.observe(WorkerSeen(worker("other", endpoints=(endpoint(model="other"),))), 1.0)
    assert not r.fleet.workers["other"].health.slow, "the first of its model"
    r.observe(WorkerSeen(worker("old", seq=2, usd_per_hour=9.0)), 1.0)
    assert not r.fleet.workers["old"].health.slow, "a changed record makes nobody new"
