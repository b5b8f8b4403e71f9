"""The memory of decisions: bounded, by id, predicted beside actual."""

from __future__ import annotations

import json
import random

import pytest

from gateway.ring import Ring, Trace, Tried, encode
from policies.cost import bill
from policies.fleet import Fleet
from policies.reason import Reason
from policies.request import Outcome, Shed, WorkerSeen
from tests.gateway.members import dispatch, node, request, worker


def trace(request_id: str = "r1") -> Trace:
    return Trace(request_id=request_id)


def test_it_keeps_the_newest() -> None:
    ring = Ring(3)
    for index in range(5):
        ring.add(trace(f"r{index}"))
    assert len(ring) == 3
    assert ring.find("r1") is None
    assert ring.find("r2") is not None
    assert [kept.request_id for kept in ring.recent(2)] == ["r4", "r3"]
    assert len(ring.recent(100)) == 3


def test_a_repeated_id_keeps_the_newest_and_its_age() -> None:
    ring = Ring(2)
    first, second = trace("a"), trace("a")
    ring.add(first)
    ring.add(trace("b"))
    ring.add(second)
    ring.add(trace("c"))
    assert ring.find("a") is second
    assert ring.find("b") is None


def test_the_sink_sees_every_trace_and_its_faults_cost_nothing() -> None:
    seen: list[str] = []
    dropped: list[Exception] = []

    def sink(taken: Trace) -> None:
        if taken.request_id == "full":
            raise OSError("disk full")
        seen.append(taken.request_id)

    ring = Ring(sink=sink, dropped=dropped.append, wall=lambda: 5.0)
    for request_id in ("a", "full", "b"):
        ring.add(trace(request_id))
    assert seen == ["a", "b"]
    assert [str(error) for error in dropped] == ["disk full"]
    assert ring.recent(1)[0].wall == 5.0
    assert ring.find("full") is not None


def test_a_decision_is_told_part_by_part() -> None:
    asked = request("r7", arrived=100.0, deadline=100.25, tenant="acme")
    lost = Outcome(reason=Reason.UPSTREAM_LOST, total=0.05)
    good = Outcome(first_byte=0.09, total=0.11, queue=0.01, prefill=0.03, decode=0.04, accelerator=0.07)
    told_of = Trace(
        request_id="r7",
        request=asked,
        status=200,
        finished=100.2,
        attempts=[Tried(dispatch(asked), lost, 0.0), Tried(dispatch(asked, node("us-east", "w2"), 2), good, 0.125)],
    )
    ring = Ring(wall=lambda: 0.0)
    ring.add(told_of)
    told = json.loads(json.dumps(encode(told_of)))
    assert told["at"] == "1970-01-01T00:00:00.000+00:00"
    assert told["deadline_ms"] == pytest.approx(250)
    assert told["took_ms"] == pytest.approx(200)
    assert told["in_deadline"] is True
    assert told["tenant"] == "acme"
    first, second = told["attempts"]
    assert (first["outcome"], second["outcome"]) == ("upstream_lost", "ok")
    assert second["node"] == "w2/digits:fp32"
    assert second["region"] == "us-east"
    assert second["predicted"] == {
        "network_ms": 20, "queue_ms": 10, "prefill_ms": 30, "decode_ms": 40, "total_ms": 100, "spread_ms": 5,
        "cost_usd": 0.001,
    }  # fmt: skip
    assert second["actual"]["network_ms"] == pytest.approx(30)
    assert second["actual"]["cost_usd"] == 0.125
    assert first["actual"]["network_ms"] is None


@pytest.mark.parametrize(
    ("outcome", "in_deadline"),
    [
        (Outcome(first_byte=0.05, total=0.2), True),
        (Outcome(first_byte=0.15, total=0.2), False),
        (Outcome(total=0.2, client_error=True), False),
        (None, False),
    ],
)
def test_in_deadline_is_what_it_is_everywhere(outcome: Outcome | None, in_deadline: bool) -> None:
    asked = request(arrived=100.0, deadline=100.25, first_token_deadline=100.1)
    told = encode(Trace("r", asked, [Tried(dispatch(asked), outcome)], status=200, finished=100.2))
    assert told["in_deadline"] is in_deadline


def test_refused_pending_and_patient_requests_are_told_too() -> None:
    shed = Shed(Reason.DEADLINE_INFEASIBLE, "short by 3 ms", "x-deadline-ms")
    told = encode(Trace(request_id="r", shed=shed, status=429))
    assert told["refused"] == {
        "reason": "deadline_infeasible", "code": "deadline_infeasible", "detail": "short by 3 ms",
        "param": "x-deadline-ms",
    }  # fmt: skip
    assert told["attempts"] == []
    asked = request()
    told = encode(Trace(request_id="r", request=asked, attempts=[Tried(dispatch(asked))]))
    assert told["deadline_ms"] is None
    assert told["took_ms"] is None
    assert told["attempts"][0]["outcome"] == "pending"
    assert told["attempts"][0]["actual"] is None


def test_what_an_attempt_cost_stays_when_prices_change() -> None:
    fleet, outcome = Fleet(random.Random(1)), Outcome(total=0.1, accelerator=3.6)
    fleet.apply(WorkerSeen(worker(price=1.0)), 0.0)
    sent = dispatch(at=fleet.nodes()[0])
    kept = Trace("r", attempts=[Tried(sent, outcome, bill(sent.node, sent.request, outcome))])
    fleet.apply(WorkerSeen(worker(seq=2, price=1000.0)), 1.0)
    assert bill(sent.node, sent.request, outcome) == pytest.approx(1.0)  # the node is as dear as it is now
    assert encode(kept)["attempts"][0]["actual"]["cost_usd"] == pytest.approx(0.001)


def test_a_client_error_is_no_success() -> None:
    refused = Trace("r", attempts=[Tried(dispatch(), Outcome(total=0.1, client_error=True))])
    assert encode(refused)["attempts"][0]["outcome"] == "client_error"
