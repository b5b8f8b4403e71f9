import re

import pytest

from policies.admission import MAX_FLOOR, MAX_RETRY_AFTER, Overload, retry_after
from policies.reason import Reason
from policies.records import Curve
from policies.request import Infeasible, LoadSeen, Shed
from tests.fleets import endpoint, load, request, router, worker

REFUSE = (Infeasible.REJECT,)


def refused(made, **wishes) -> Shed:
    shed = made.route(request(when_infeasible=REFUSE, **wishes), 0.0)
    assert isinstance(shed, Shed)
    assert shed.reason is Reason.DEADLINE_INFEASIBLE
    return shed


@pytest.fixture
def writers():
    """Two nodes 10 and 100 ms away that take 10 ms, and 10 ms for each token."""
    curve = Curve(0.01, decode=0.01)
    nodes = (worker(name, endpoints=(endpoint(curve=curve),)) for name in ("near", "far"))
    return router(*nodes, rtt={"near": 0.01, "far": 0.1})


def test_what_would_do_would_do(writers):
    shed = refused(writers, deadline=0.01)
    (more,) = re.fullmatch(r"(\d+) ms more would do\.", shed.detail).groups()
    assert shed.param == "x-deadline-ms"
    assert not isinstance(writers.route(request(deadline=0.01 + int(more) / 1e3, when_infeasible=REFUSE), 0.0), Shed)
    refused(writers, deadline=0.01 + int(more) / 1e3 - 0.002)


def test_a_first_token_and_a_pace_are_named_when_they_are_the_cause(writers):
    first = refused(writers, deadline=5.0, first_token_deadline=0.005, output_tokens=20)
    assert (first.param, first.retry_after) == ("x-slo-ttft-ms", None)
    assert first.detail.endswith("ms more would do.")
    pace = refused(writers, deadline=5.0, token_interval=0.001, output_tokens=20)
    assert (pace.param, pace.retry_after) == ("x-slo-tpot-ms", None)
    assert re.fullmatch(r"The fastest needs [0-9.]+ ms more for each token\.", pace.detail)


def test_deadlines_no_node_meets_together_are_said_to_be_such():
    near = worker("near", endpoints=(endpoint(curve=Curve(0.01, decode=0.05)),))
    quick = worker("quick", endpoints=(endpoint(curve=Curve(0.01, decode=0.001)),))
    made = router(near, quick, rtt={"near": 0.001, "quick": 0.3})
    shed = refused(made, first_token_deadline=0.1, token_interval=0.01, output_tokens=20)
    assert shed.detail == "Each deadline alone can be met, but not by the same node."


def test_coming_back_helps_only_behind_a_queue(writers):
    assert refused(writers, deadline=0.01).retry_after is None
    for name in ("near", "far"):
        writers.observe(LoadSeen(load(name, boot="b1", seq=2, waiting=40, running=8, backlog=4.0), 0.0), 0.0)
    assert refused(writers, deadline=0.5).retry_after == pytest.approx(3.6, abs=0.5)


def test_retry_after_is_bounded():
    assert retry_after(0.0) == 1.0
    assert retry_after(1e9) == MAX_RETRY_AFTER


def test_the_floor_falls_where_nothing_tried_is_wasted_and_rises_where_it_is():
    overload = Overload()
    for _ in range(500):
        overload.routed(crowded_out=True)
    assert overload.floor == MAX_FLOOR
    for _ in range(400):
        overload.tried(wasted=False)
    assert overload.floor < 0.6
    for tried in range(400):
        overload.tried(wasted=tried % 5 == 0)
    assert overload.floor == pytest.approx(MAX_FLOOR, abs=0.02)
