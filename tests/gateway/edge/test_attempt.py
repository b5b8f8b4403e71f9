"""One dispatch: how long it may take, what its worker is sent, and that it is settled once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.edge.attempt import LONGEST, Attempt, limit
from gateway.edge.gate import Head
from policies.request import Dispatch, Eta, Status
from tests.fleets import request, router, worker
from tests.playbook import Edge


def attempt(
    status: Status = Status.FEASIBLE, *, number: int = 1, peers: str = "b", own: bool = True, **fields: Any
) -> Attempt:
    names = ("a", *peers)
    decided = router(*(worker(name, usd_per_hour=n + 1, variant_header=own) for n, name in enumerate(names)))
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


def told(tried: Attempt, now: float = 0.5) -> list[bytes]:
    """Header lines of the request to the worker."""
    return tried.head(Head(b"POST", b"/v1/x", "1.1", []), b"/v1/x", 0, b"r-1", b"", now).split(b"\r\n")


def test_a_worker_is_told_which_wait_is_counted_on_where_another_could_take_its_place() -> None:
    line = b"x-isochrone-wait-ms: 100"
    assert line in told(attempt())
    assert line in told(attempt(Status.DEGRADED))
    for tried in (attempt(Status.BEST_EFFORT), attempt(number=2), attempt(peers=""), attempt(own=False)):
        assert b"x-isochrone-wait-ms" not in b" ".join(told(tried)), "it is to try"


def test_what_is_left_for_the_first_token_goes_to_the_worker() -> None:
    assert b"x-slo-ttft-ms: 1500" in told(attempt(first_token_deadline=2.0, stream=True))
    for tried in (attempt(deadline=2.0), attempt(first_token_deadline=0.4)):
        assert b"x-slo-ttft-ms" not in b" ".join(told(tried)), "none was asked for, or it is missed already"


def test_both_of_a_hedged_pair_say_so() -> None:
    tried = attempt()
    assert b"x-isochrone-hedge: r-1" not in told(tried)
    for tied in ({"hedge_at": 0.7}, {"hedge": True}):
        tried.dispatch = msgspec.structs.replace(tried.dispatch, **tied)
        assert b"x-isochrone-hedge: r-1" in told(tried)
