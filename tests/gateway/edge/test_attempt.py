"""One dispatch: how long it may take, what its worker is sent, and that it is settled once."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.edge.attempt import LONGEST, Attempt, limit
from gateway.edge.gate import Head
from policies.request import Dispatch, Eta, Status
from tests.fleets import request, router, worker
from tests.playbook import Edge


def attempt(status: Status = Status.FEASIBLE, *, number: int = 1, **fields: Any) -> Attempt:
    decided = router(worker("a"))
    given = request(**fields)
    routed = decided.route(given, 0.0)
    assert isinstance(routed, Dispatch)
    dispatch = Dispatch(
        request=given,
        node=routed.node,
        at=0.0,
        attempt=number,
        status=status,
        eta=Eta(network=0.1, wait=0.1, prefill=0.3, decode=0.5, spread=0.05),
        cost=0.0,
    )
    decided._open[id(dispatch)] = decided._open.pop(id(routed))
    return Attempt(decided, dispatch, Edge("a").pools.of("127.0.0.1:9000"), limit(dispatch))


@pytest.mark.parametrize(
    ("fields", "status", "until"),
    [
        ({}, Status.FEASIBLE, LONGEST),
        ({"deadline": 5.0}, Status.FEASIBLE, 5.0),
        ({"deadline": 5.0}, Status.DEGRADED, 5.0),
        ({"deadline": 5.0}, Status.BEST_EFFORT, 61.0),
        ({"deadline": 5000.0}, Status.FEASIBLE, 5000.0),
    ],
)
def test_when_it_must_be_over(fields: dict[str, float], status: Status, until: float) -> None:
    assert attempt(status, **fields).limit == pytest.approx(until)


@pytest.mark.parametrize(
    ("fields", "patience"),
    [
        ({}, 1.0 + 3 * 0.5 + 4 * 0.05),  # unary: silent all the while, perhaps much longer than predicted
        ({"stream": True}, 2.0),  # its first token at 0.5 + 4 * 0.05, yet never less than two seconds
        ({"stream": True, "deadline": 2.0}, 1.0),  # half the budget is left for another
        ({"deadline": 1.0}, 1.0),  # no time for another: until the deadline
    ],
)
def test_how_long_its_worker_may_be_silent(fields: dict[str, float | bool], patience: float) -> None:
    assert attempt(**fields).patience == pytest.approx(patience)


def test_a_far_node_may_take_three_round_trips_to_connect() -> None:
    assert attempt().connect_timeout == pytest.approx(0.3)


def test_it_is_settled_once() -> None:
    tried = attempt(deadline=2.0)
    outcome = tried.settle(None, 1.5)
    assert outcome.total == 1.5
    assert "settled" in repr(tried)
    with pytest.raises(AssertionError):
        tried.settle(None, 1.5)


def test_a_repeat_says_so_and_the_budget_is_what_is_left() -> None:
    client = Head(b"POST", b"/v1/x", "1.1", [(b"host", b"h"), (b"te", b"trailers"), (b"accept", b"*/*")])
    head = attempt(number=2, deadline=5.0).head(client, b"/v1/x", 3, b"r-1", b"", 1.5)
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert b"x-envoy-attempt-count: 2" in lines
    assert b"x-deadline-ms: 3500" in lines
    assert b"x-envoy-expected-rq-timeout-ms: 3500" in lines
    assert b"accept: */*" in lines
    assert b"te: trailers" not in lines
    assert head.endswith(b"\r\nContent-Length: 3\r\n\r\n")


def test_fields_the_client_names_in_connection_go_no_further() -> None:
    fields = [
        (b"connection", b"keep-alive, X-Secret"),
        (b"x-secret", b"1"),
        (b"x-open", b"2"),
        (b"accept-encoding", b"br"),
    ]
    head = attempt().head(Head(b"POST", b"/v1/x", "1.1", fields), b"/v1/x", 0, b"r-1", b"", 0.0)
    assert b"x-open: 2" in head
    assert b"x-secret" not in head
    assert b"accept-encoding" not in head
