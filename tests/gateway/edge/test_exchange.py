"""One request's life: every way it can go, as scripts of bytes."""

from __future__ import annotations

import orjson
import pytest

from policies.reason import Reason
from policies.request import WorkerSeen
from tests.fleets import endpoint, worker
from tests.playbook import (
    ANSWER,
    CHAT,
    EVENT,
    STREAM,
    Edge,
    Playbook,
    cancelled,
    chunk,
    client,
    client_sees,
    client_sees_exactly,
    client_sees_nothing,
    lost,
    post,
    refusing,
    reply,
    reported,
    seconds,
    stream_head,
    upstream,
    upstream_says,
)

END = b": timing queue;dur=2.0, prefill;dur=10.0, decode;dur=30.0, accel;dur=40.0\n\ndata: [DONE]\n\n"
REFUSED = reply(b"{}", b"x-isochrone-executed: 0", status=b"503 Service Unavailable")


def error_code(data: bytes) -> str:
    return orjson.loads(data.partition(b"\r\n\r\n")[2])["error"]["code"]


# The plain way.


def test_forwards_to_the_cheapest_and_relays_the_answer(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Custom: 1"))
        << upstream("a", b"POST /v1/chat/completions HTTP/1.1\r\n", b"\r\nx-custom: 1\r\n", b"\r\n\r\n" + CHAT)
        << client_sees_nothing()
        >> upstream_says("a", reply(ANSWER, b"Content-Type: application/json"))
        << client_sees(b"HTTP/1.1 200 OK\r\n", b"application/json", b"Content-Length: 46\r\n\r\n" + ANSWER)
        << reported("a", None)
    )
    assert edge.unreported == 0
    assert not edge.transport.closed


def test_an_idle_link_is_written_to_before_the_callback_returns(edge: Edge) -> None:
    first = Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER))
    edge.wire("a").take()
    edge.pools.waiting = []  # from here on a new connection would have to wait
    assert first >> client(post(CHAT)) << upstream("a", b"POST ")


def test_sequential_requests_share_one_connection(edge: Edge) -> None:
    script = Playbook(edge)
    for _ in range(50):
        assert script >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK", ANSWER)
    assert len(edge.pools.links) == 1
    assert repr(edge.pools.of("10.0.0.1:9000")) == "<Pool 10.0.0.1:9000 idle 1 busy 0 connecting 0 waiting 0>"


def test_what_the_worker_is_told_and_not_told(edge: Edge) -> None:
    trace = b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"
    ours = (b"X-Deadline-Ms: 5000", b"X-Request-Id: r-1", trace, b"X-Session-Id: s", b"X-Isochrone-Variant: evil")
    theirs = (b"Authorization: Bearer k", b"Cookie: s", b"Keep-Alive: 5", b"X-Forwarded-For: 1.2.3.4", b"Accept: */*",
              b"Endpoint-Load-Metrics-Format: text")  # fmt: skip
    fields = ours + theirs
    Playbook(edge) >> client(post(CHAT, *fields))
    sent = bytes(edge.wire("a").sent)
    head = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"POST /v1/chat/completions HTTP/1.1"
    assert set(head[1:]) == {
        b"Host: 10.0.0.1:9000",
        b"accept: */*",
        b"x-request-id: r-1",
        b"x-isochrone-variant: fp32",
        b"x-deadline-ms: 5000",
        b"x-envoy-expected-rq-timeout-ms: 5000",
        b"x-isochrone-wait-ms: 0",
        b"endpoint-load-metrics-format: JSON",
        trace,
        b"Content-Length: 60",
    }


def test_the_decision_is_told_on_request(edge: Edge) -> None:
    timing = b"Server-Timing: queue;dur=1, prefill;dur=2, decode;dur=3, accel;dur=4"
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Route-Explain: 1"))
        >> upstream_says("a", reply(ANSWER, timing))
        << client_sees(
            b"x-route-node: a\r\nx-route-region: home\r\nx-route-variant: fp32\r\nx-route-cost-usd: 1.11e-06\r\n",
            b"x-route-eta-ms: ",
            b"x-route-attempts: 1\r\nx-route-reason: feasible\r\n",
            b"Server-Timing: route;dur=0.00, net;dur=0.00, queue;dur=1.00, prefill;dur=2.00, decode;dur=3.00\r\n",
        )
    )


@pytest.mark.parametrize(("setting", "told"), [("always", True), ("never", False)])
def test_a_policy_may_always_or_never_tell_the_decision(setting: str, told: bool) -> None:
    edge = Edge(decision_headers=setting)
    fields = () if told else (b"X-Route-Explain: 1",)
    Playbook(edge) >> client(post(CHAT, *fields)) >> upstream_says("a", reply(ANSWER))
    assert (b"x-route-node" in edge.transport.sent) is told


def test_the_nearest_gateway_is_recommended(edge: Edge) -> None:
    edge.places.nearest = b"https://eu.example"
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Forwarded-For: 1.2.3.4"))
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"x-gateway-nearest: https://eu.example\r\n")
    )
    assert edge.places.asked == [("127.0.0.1", b"1.2.3.4")]


def test_a_request_that_nobody_serves_is_refused(edge: Edge) -> None:
    Playbook(edge) >> client(post(b'{"model":"other","messages":[{}]}'))
    assert error_code(edge.transport.take()) == "model_not_found"
    assert not edge.pools.links
    assert not edge.transport.closed


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (post(b"not json"), b"400", "invalid_json"),
        (post(CHAT, b"X-Deadline-Ms: soon"), b"400", "bad_request"),
        (post(CHAT, path=b"/other"), b"404", "not_found"),
        (b"GET /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n", b"405", "method_not_allowed"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"404", "not_found"),
        (b"OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", b"405", "method_not_allowed"),
        (b"DELETE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", b"405", "method_not_allowed"),
    ],
)
def test_refused_before_routing_and_the_connection_lives_on(edge: Edge, raw: bytes, status: bytes, code: str) -> None:
    Playbook(edge) >> client(raw)
    seen = edge.transport.take()
    assert seen.startswith(b"HTTP/1.1 " + status)
    assert error_code(seen) == code
    assert not edge.pools.links
    assert Playbook(edge) >> client(post(CHAT)) << upstream("a", b"POST ")


def test_head_gets_no_body(edge: Edge) -> None:
    Playbook(edge) >> client(b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
    seen = edge.transport.take()
    assert seen.startswith(b"HTTP/1.1 405")
    assert seen.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (b"/v1/models", b'"id":"chat"'),
        (b"/v1/models/chat", b'"id":"chat"'),
        (b"/v2", b'"name":"isochrone"'),
        (b"/v2/health/live", b"true"),
        (b"/v2/models/chat", b'"name":"chat"'),
    ],
)
def test_gets_are_answered_from_the_registry(edge: Edge, path: bytes, part: bytes) -> None:
    assert (
        Playbook(edge)
        >> client(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        << client_sees(b"HTTP/1.1 200 OK", b"application/json", b"\r\n\r\n", part)
    )


def test_a_foreign_engine_gets_its_own_name_for_the_model() -> None:
    edge = Edge("")
    foreign = worker("f", address="10.9.9.9:80", variant_header=False, endpoints=(endpoint(served_name="org/Chat-7B"),))
    edge.records.append(foreign)
    edge.router.observe(WorkerSeen(foreign), 0.0)
    Playbook(edge) >> client(post(CHAT))
    sent = bytes(edge.wire("f").sent)
    assert b"x-isochrone-variant" not in sent
    assert sent.endswith(CHAT.replace(b'"chat"', b'"org/Chat-7B"'))


# Attempts that fail, and others that follow.


def test_a_worker_that_dies_before_its_answer_is_replaced(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Request-Id: r-1"))
        << upstream("a", b"x-request-id: r-1")
        >> lost("a")
        << reported("a", Reason.UPSTREAM_LOST)
        << upstream("b", b"x-request-id: r-1", b"x-envoy-attempt-count: 2", CHAT)
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"200 OK", ANSWER)
        << reported("b", None)
    )
    assert edge.unreported == 0


def test_a_worker_that_dies_amid_a_unary_answer_is_replaced(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", reply(ANSWER)[:-5])
        << client_sees_nothing()
        >> lost("a")
        << upstream("b", CHAT)
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"200 OK", ANSWER)
    )


def test_an_impure_route_does_not_repeat_what_may_have_run() -> None:
    edge = Edge(pure=False)
    assert Playbook(edge) >> client(post(CHAT)) >> lost("a") << client_sees(b"HTTP/1.1 502 ", b"bad_upstream_reply")
    assert len(edge.pools.links) == 1


def test_an_impure_route_repeats_what_was_not_sent() -> None:
    edge = Edge(pure=False)
    assert Playbook(edge) >> refusing("a") >> client(post(CHAT)) << upstream("b", CHAT)


def test_an_unreachable_worker_is_replaced_and_nothing_was_executed(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> refusing("a")
        >> client(post(CHAT))
        << reported("a", Reason.CONNECT_FAILED)
        << upstream("b", CHAT)
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"200 OK")
    )
    assert edge.outcomes[0][1].executed is False


def test_a_worker_that_refuses_unexecuted_is_replaced_and_keeps_its_connection() -> None:
    edge = Edge(pure=False)
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", REFUSED)
        << reported("a", Reason.REFUSED)
        << upstream("b", CHAT)
    )
    assert edge.outcomes[0][1].executed is False
    assert "idle 1" in repr(edge.pools.of("10.0.0.1:9000"))


def test_a_worker_error_is_replaced(edge: Edge) -> None:
    broken = reply(b"secret trace", status=b"500 Oops")
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", broken)
        << reported("a", Reason.UPSTREAM_ERROR)
        << upstream("b", CHAT)
        >> upstream_says("b", broken)
        >> upstream_says("c", broken)
        << client_sees(b"HTTP/1.1 502", b"x-route-attempts: 3", b"bad_upstream_reply")
    )
    assert b"secret" not in edge.transport.sent
    assert [name for name, _ in edge.outcomes] == ["a", "b", "c"]
    assert edge.unreported == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [(b"503 X", "overloaded"), (b"504 X", "deadline_exceeded"), (b"404 X", "model_not_found")],
)
def test_what_every_worker_refuses_is_told_as_what_it_is(status: bytes, code: str) -> None:
    edge = Edge("a")
    answer = reply(b"{}", b"x-isochrone-executed: 0", status=status)
    assert Playbook(edge) >> client(post(CHAT)) << upstream("a", b"POST") >> upstream_says("a", answer)
    told = edge.transport.take()
    assert told.startswith(b"HTTP/1.1 " + status[:3])
    assert error_code(told) == code
    assert not edge.outcomes[0][1].executed


def test_a_client_error_of_the_worker_passes_through(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", reply(b'{"error":{"code":"context_length"}}', status=b"400 Bad Request"))
        << client_sees(b"HTTP/1.1 400 Bad Request", b"context_length")
    )
    assert len(edge.pools.links) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        reply(b"", b"Location: http://127.0.0.1:1/", status=b"302 Found"),
        b"\x00\x01garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 300 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000,
    ],
)
def test_a_worker_that_does_not_speak_http_is_a_502_and_its_connection_is_not_used_again(garbage: bytes) -> None:
    edge = Edge("a")
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", garbage)
        << client_sees(b"HTTP/1.1 502", b"bad_upstream_reply")
        << reported("a", Reason.BAD_UPSTREAM_REPLY)
    )
    assert "idle 0 busy 0" in repr(edge.pools.of("10.0.0.1:9000")) or garbage.startswith(b"HTTP/1.1 302")
    assert b"poison" not in edge.transport.sent


def test_an_interim_answer_is_passed_over(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )


def rested(edge: Edge, idle: float) -> Playbook:
    """A script in which a request is under way on a link that was idle for so long."""
    script = Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")
    return script >> seconds(idle) >> client(post(CHAT))


def test_losing_the_race_with_a_workers_idle_timeout_is_no_failure() -> None:
    edge = Edge("a")
    assert (
        rested(edge, 5.0)
        >> lost("a", clean=True)  # the worker closed the idle connection while we wrote
        << upstream("a", CHAT)
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK")
    )
    assert [outcome.reason for _, outcome in edge.outcomes] == [None, None]
    assert len(edge.pools.links) == 2


def test_the_idle_timeout_race_is_run_once_only() -> None:
    assert rested(Edge("a"), 5.0) >> lost("a") >> lost("a") << client_sees(b"HTTP/1.1 502")


def test_a_loss_on_a_busy_link_is_a_death_and_told_at_once() -> None:
    edge = Edge("a")
    assert rested(edge, 0.5) >> lost("a") << client_sees(b"HTTP/1.1 502") << reported("a", Reason.UPSTREAM_LOST)


# Time.


def test_a_deadline_that_passes_is_a_504_and_the_worker_is_told_to_stop() -> None:
    edge = Edge("a")
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Deadline-Ms: 300"))
        << upstream("a", b"x-deadline-ms: 300")
        >> seconds(0.25)
        << client_sees_nothing()
        >> seconds(0.1)
        << client_sees(b"HTTP/1.1 504", b"deadline_exceeded")
        << cancelled("a")
        << reported("a", Reason.DEADLINE_EXCEEDED)
    )


def test_a_frozen_worker_is_given_up_in_time_to_try_another(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Deadline-Ms: 1000"))
        << upstream("a", CHAT)
        >> seconds(0.6)
        << cancelled("a")
        << reported("a", Reason.DEADLINE_EXCEEDED)
        << upstream("b", CHAT)
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"200 OK")
    )
    assert edge.unreported == 0


def test_with_nobody_else_silence_is_waited_out() -> None:
    edge = Edge("a")
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> seconds(20)
        << client_sees_nothing()
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK")
    )


def test_best_effort_gets_its_time_beyond_the_deadline() -> None:
    edge = Edge("a")
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"X-Deadline-Ms: 1", b"X-Route-Explain: 1"))
        >> seconds(0.1)
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK", b"x-route-reason: best_effort")
    )


def test_a_unary_answer_that_stalls_is_lost(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", reply(ANSWER)[:-5])
        >> seconds(31)
        << reported("a", Reason.UPSTREAM_LOST)
        << cancelled("a")
        << upstream("b", CHAT)
    )


def test_a_connection_that_takes_too_long_leads_to_another_worker(edge: Edge) -> None:
    edge.pools.waiting = []
    script = Playbook(edge) >> client(post(CHAT)) << client_sees_nothing()
    pool = edge.pools.waiting.pop()
    edge.pools.waiting = None
    pool.failed()
    assert script << reported("a", Reason.CONNECT_FAILED) << upstream("b", CHAT)


def test_an_exchange_that_waits_takes_a_released_connection_first() -> None:
    edge = Edge("a")
    Playbook(edge) >> client(post(CHAT))
    edge.pools.waiting = []
    edge.connect()
    second = Playbook(edge) >> client(post(CHAT))
    pool = edge.pools.waiting.pop()
    edge.wire("a").take()
    assert second >> upstream_says("a", reply(ANSWER)) << upstream("a", CHAT)
    pool.failed()  # the one being made is not needed any more, so its failure is nobody's
    assert second >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")


# Streams.


def test_events_pass_as_they_come_and_the_end_is_ours(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", stream_head())
        << client_sees_nothing()
        >> upstream_says("a", chunk(EVENT))
        << client_sees(b"200 OK", b"text/event-stream", b"Transfer-Encoding: chunked\r\n\r\n", chunk(EVENT))
        >> upstream_says("a", chunk(EVENT + EVENT))
        << client_sees_exactly(chunk(EVENT + EVENT))
        >> upstream_says("a", chunk(END) + b"0\r\n\r\n")
        << client_sees_exactly(chunk(END) + b"0\r\n\r\n")
        << reported("a", None)
    )
    outcome = edge.outcomes[-1][1]
    assert (outcome.queue, outcome.prefill, outcome.decode, outcome.accelerator) == (0.002, 0.01, 0.03, 0.04)
    assert outcome.output_tokens == 3
    assert "idle 1" in repr(edge.pools.of("10.0.0.1:9000"))


def test_half_an_event_waits_for_its_other_half(edge: Edge) -> None:
    Playbook(edge) >> client(post(STREAM)) >> upstream_says("a", stream_head() + chunk(EVENT)) << client_sees(EVENT)
    assert (
        Playbook(edge)
        >> upstream_says("a", chunk(EVENT + EVENT[:9]))
        << client_sees_exactly(chunk(EVENT))
        >> upstream_says("a", chunk(EVENT[9:]))
        << client_sees_exactly(chunk(EVENT))
    )


def test_a_stream_that_breaks_ends_with_an_error_event_and_no_ending(edge: Edge) -> None:
    Playbook(edge) >> client(post(STREAM)) >> upstream_says("a", stream_head() + chunk(EVENT)) << client_sees(EVENT)
    Playbook(edge) >> upstream_says("a", chunk(EVENT[:9])) >> lost("a")
    seen = edge.transport.take()
    assert b'"code":"stream_interrupted"' in seen
    assert EVENT[:9] not in seen.partition(b"\r\n")[2][:9]
    assert b"[DONE]" not in seen
    assert not seen.endswith(b"0\r\n\r\n")
    assert edge.transport.closed
    assert not edge.transport.aborted
    assert edge.outcomes[-1][1].reason is Reason.STREAM_INTERRUPTED
    assert len(edge.pools.links) == 1


def test_a_stream_that_breaks_before_its_first_event_is_repeated(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", stream_head() + chunk(EVENT[:5]))
        >> lost("a")
        << upstream("b", STREAM)
        >> upstream_says("b", stream_head() + chunk(EVENT))
        << client_sees(b"200 OK", EVENT)
    )


def test_a_stream_past_its_deadline_ends_with_an_error_event(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM, b"X-Deadline-Ms: 1000"))
        >> upstream_says("a", stream_head() + chunk(EVENT))
        >> seconds(1.1)
        << client_sees(EVENT, b'"code":"deadline_exceeded"', closed=True)
        << cancelled("a")
    )


def test_a_stream_that_stalls_is_interrupted(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", stream_head() + chunk(EVENT))
        >> seconds(31)
        << client_sees(EVENT, b"stream_interrupted", closed=True)
    )


def test_a_garbled_stream_is_interrupted(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", stream_head() + chunk(EVENT))
        >> upstream_says("a", b"zzz\r\n")
        << client_sees(EVENT, b"stream_interrupted", closed=True)
        << reported("a", Reason.BAD_UPSTREAM_REPLY)
    )


def test_a_stream_that_ends_with_its_connection_needs_its_done() -> None:
    edge = Edge("a")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", head + EVENT + END)
        >> lost("a", clean=True)
        << client_sees(EVENT, b"[DONE]", b"0\r\n\r\n")
        << reported("a", None)
    )
    assert (
        Playbook(edge)
        >> client(post(STREAM))
        >> upstream_says("a", head + EVENT)
        >> lost("a", clean=True)
        << client_sees(EVENT, b"stream_interrupted", closed=True)
    )


def test_a_unary_answer_may_end_with_its_connection(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER)
        << client_sees_nothing()
        >> lost("a", clean=True)
        << client_sees(b"200 OK", b"Content-Length: 46", ANSWER)
        << reported("a", None)
    )


def test_a_large_unary_answer_is_streamed_from_the_limit_on(edge: Edge) -> None:
    edge.use(reply_buffer_bytes=1000)
    whole = reply(b"x" * 3000)
    head, body = whole[:-3000], b"x" * 3000
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", head + body[:900])
        << client_sees_nothing()
        >> upstream_says("a", body[900:1900])
        << client_sees(b"Content-Length: 3000\r\n\r\n" + body[:1900])
        >> upstream_says("a", body[1900:])
        << client_sees_exactly(body[1900:])
        << reported("a", None)
    )
    assert not edge.transport.closed


def test_a_large_unary_answer_that_breaks_off_is_seen_to_be_incomplete(edge: Edge) -> None:
    edge.use(reply_buffer_bytes=1000)
    large = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 2000)
    (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", large)
        << client_sees(b"chunked", b"x" * 2000)
        >> lost("a")
    )
    assert edge.transport.take() == b""
    assert edge.transport.closed


def test_http_1_0_gets_its_stream_without_chunks(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        >> upstream_says("a", stream_head() + chunk(EVENT) + chunk(END) + b"0\r\n\r\n")
        << client_sees(b"Connection: close\r\n\r\n" + EVENT + END, closed=True)
    )
    assert b"chunked" not in edge.transport.sent


# The client does not read.


def test_a_slow_reader_stops_the_worker_and_is_not_taken_for_a_stall(edge: Edge) -> None:
    Playbook(edge) >> client(post(STREAM)) >> upstream_says("a", stream_head() + chunk(EVENT))
    edge.client.pause_writing()
    assert not edge.wire("a").reading
    edge.client.resume_writing()
    assert edge.wire("a").reading


@pytest.mark.parametrize("pauses", [True, False])
def test_a_slow_reader_does_not_make_a_worker_look_slow(edge: Edge, pauses: bool) -> None:
    residuals = edge.router.fleet.calibration.total
    known = residuals.count
    speeds = [(node.speed.factor, node.pace.factor) for node in edge.router.fleet.nodes()]
    asked = post(STREAM, b"X-Deadline-Ms: 60000")
    script = Playbook(edge) >> client(asked) >> upstream_says("a", stream_head() + chunk(EVENT))
    if pauses:
        edge.client.pause_writing()
    script >> seconds(20)
    if pauses:
        edge.client.resume_writing()
    untimed = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    assert script >> upstream_says("a", untimed) << client_sees(b"[DONE]") << reported("a", None)
    assert edge.outcomes[0][1].held_up is pauses
    after = [(node.speed.factor, node.pace.factor) for node in edge.router.fleet.nodes()]
    assert (after == speeds) is pauses, "20 s without a pause are the worker's own"
    assert (residuals.count == known) is pauses


def test_a_reader_that_stops_is_cut_off(edge: Edge) -> None:
    Playbook(edge) >> client(post(STREAM)) >> upstream_says("a", stream_head() + chunk(EVENT))
    edge.client.pause_writing()
    edge.pass_time(29)
    assert not edge.transport.aborted
    edge.pass_time(2)
    assert edge.transport.aborted
    edge.client.connection_lost(None)
    assert edge.wire("a").aborted
    assert edge.telemetry.value("connections.write_stall") == 1
