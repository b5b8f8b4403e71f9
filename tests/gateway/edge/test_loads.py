"""Load reports on answers: what the router knows after the bytes came, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from policies.reason import Reason
from policies.records import Load
from policies.reports import encode_report
from tests.fleets import load
from tests.playbook import (
    ANSWER,
    CHAT,
    EVENT,
    STREAM,
    Edge,
    Playbook,
    chunk,
    client,
    client_sees,
    post,
    reply,
    reported,
    seconds,
    stream_head,
    upstream,
    upstream_says,
)

DONE = b": timing queue;dur=2.0\n\n", b"data: [DONE]\n\n"


def report(seq: int, **fields: Any) -> bytes:
    return encode_report(load("a", seq, **fields), 0.5, 10.0).encode()


def known(edge: Edge, name: str = "a") -> Load:
    found = edge.router.fleet.workers[name].load
    assert found is not None
    return found


def counted(edge: Edge, result: str) -> int:
    return edge.telemetry.value(f"reports.{result}")


def test_an_answers_head_tells_the_router_and_not_the_client(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(CHAT)) << upstream("a", b"\r\nendpoint-load-metrics-format: JSON\r\n")
    state = edge.router.fleet.workers["a"]
    assert (
        script
        >> seconds(0.5)
        >> upstream_says("a", reply(ANSWER, b"Endpoint-Load-Metrics: " + report(2, waiting=5, running=4, arrived=9)))
    )
    seen = edge.transport.take()
    assert ANSWER in seen
    assert b"load-metrics" not in seen.lower()
    assert (known(edge).waiting, known(edge).running, known(edge).arrived) == (5, 4, 9)
    assert state.load_at == pytest.approx(edge.clock.now - state.rtt.mean / 2)
    assert counted(edge, "taken") == 1


def test_the_answered_request_is_settled_before_the_load_that_no_longer_has_it(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT))
    Playbook(edge) >> upstream_says("a", reply(ANSWER, b"Endpoint-Load-Metrics: " + report(2, running=3)))
    assert edge.router.fleet.workers["a"].outstanding(edge.clock.now) == 3


def test_without_a_report_the_load_stays(edge: Edge) -> None:
    before = known(edge)
    Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER)) << reported("a", None)
    assert known(edge) is before


def test_a_report_older_than_what_is_known_changes_nothing(edge: Edge) -> None:
    for seq, waiting in ((9, 1), (8, 7)):
        answer = reply(ANSWER, b"Endpoint-Load-Metrics: " + report(seq, waiting=waiting))
        Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", answer)
        edge.connect()
    assert (known(edge).seq, known(edge).waiting) == (9, 1)


def test_a_stream_tells_at_its_first_byte_and_at_its_end(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(STREAM)) << upstream("a", STREAM)
    script >> upstream_says("a", stream_head(b"Endpoint-Load-Metrics: " + report(2, running=6)) + chunk(EVENT))
    assert known(edge).running == 6
    assert edge.unreported == 1, "the stream is not over"
    script >> seconds(1.0) >> upstream_says("a", chunk(DONE[0] + b": load " + report(3, running=2) + b"\n\n" + DONE[1]))
    script >> upstream_says("a", b"0\r\n\r\n") << reported("a", None)
    assert known(edge).running == 2
    assert edge.router.fleet.workers["a"].load_at == pytest.approx(edge.clock.now, abs=0.01)
    seen = edge.transport.take()
    assert b": timing" in seen
    assert b"[DONE]" in seen
    assert b": load" not in seen
    assert counted(edge, "taken") == 2


def test_a_refusal_tells_the_load_too(edge: Edge) -> None:
    refusal = (b"x-isochrone-executed: 0", b"Endpoint-Load-Metrics: " + report(2, waiting=50))
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", reply(b"{}", *refusal, status=b"503 Service Unavailable"))
        << upstream("b", CHAT)
        >> upstream_says("b", reply(ANSWER))
        << client_sees(ANSWER)
    )
    assert known(edge).waiting == 50


def test_an_engine_that_is_not_ours_is_believed_under_its_records_boot(edge: Edge) -> None:
    field = b"Endpoint-Load-Metrics: TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=7.0"
    Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER, field))
    assert (known(edge).waiting, known(edge).kv_use, known(edge).seq, known(edge).boot) == (7, 0.5, 1, "b1")


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (b"nonsense", "malformed"),
        (b'JSON {"named_metrics":{"num_requests_waiting":-1}}', "malformed"),
        (b'JSON {"named_metrics":{}}', "unused"),
        (encode_report(load("a", 5, boot="other", waiting=9), 0.0, 0.0).encode(), "unused"),
    ],
)
def test_what_tells_nothing_is_counted_and_the_answer_goes_through(edge: Edge, value: bytes, result: str) -> None:
    before = known(edge)
    answer = reply(ANSWER, b"Endpoint-Load-Metrics: " + value)
    assert Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", answer) << client_sees(b"200 OK", ANSWER)
    assert known(edge) is before
    assert counted(edge, result) == 1


def test_the_age_counts_from_when_the_head_came(edge: Edge) -> None:
    whole = reply(ANSWER, b"Endpoint-Load-Metrics: " + report(2, waiting=1))
    head, body = whole[: -len(ANSWER)], whole[-len(ANSWER) :]
    script = Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", head)
    came = edge.clock.now
    assert script >> seconds(0.2) >> upstream_says("a", body) << client_sees(ANSWER)
    state = edge.router.fleet.workers["a"]
    assert state.load_at == pytest.approx(came - state.rtt.mean / 2)


def test_an_early_refusal_costs_no_request_and_corrects_what_was_thought(edge: Edge) -> None:
    """The worker's queue is much longer than we thought: it says so, unexecuted, and another worker answers."""
    longer = report(2, waiting=40, backlog=9.0, running=1)
    no = reply(b"{}", b"x-isochrone-executed: 0", b"endpoint-load-metrics: " + longer, status=b"504 Gateway Timeout")
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"x-deadline-ms: 5000"))
        << upstream("a", b"x-isochrone-wait-ms: 0")
        >> upstream_says("a", no)
        << reported("a", Reason.DEADLINE_EXCEEDED)
        << upstream("b", b"POST")
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )
    state = edge.router.fleet.workers["a"]
    assert state.wait(edge.clock.now) == pytest.approx(9.0, abs=0.001)
    assert state.health._failures == 0, "an honest answer is no failure"
    assert state.accepts(edge.clock.now), "others, with more time, may go there at once"
