"""A client's connection: order, limits, timeouts, and bytes however they are cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.client import Phase
from policies.reason import Reason
from tests.playbook import (
    ANSWER,
    CHAT,
    Edge,
    Playbook,
    client,
    client_sees,
    client_sees_exactly,
    client_sees_nothing,
    post,
    reply,
    seconds,
    upstream,
    upstream_says,
)

MODELS = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def edge() -> Edge:
    return Edge("a")


# Bytes, however they are cut.

CONVERSATION = (
    MODELS
    + post(CHAT, b"X-Request-Id: r-1")
    + b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-2\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"10\r\n" + CHAT[:16] + b"\r\n2c\r\n" + CHAT[16:] + b"\r\n0\r\n\r\n"
    + post(b"not json", b"X-Request-Id: r-3")
    + post(CHAT, b"X-Request-Id: r-4", b"Connection: close")
)  # fmt: skip


def converse(pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What client and worker see of a conversation whose bytes arrive in these pieces."""
    edge = Edge("a")
    seen = bytearray()
    for piece in pieces:
        edge.client.data_received(piece)
        while edge.pools.links and edge.link("a").caller is not None:
            seen += edge.wire("a").take()
            edge.link("a").data_received(reply(ANSWER))
    assert edge.transport.closed
    return bytes(edge.transport.sent), bytes(seen)


def anonymous(data: bytes) -> bytes:
    """Without the ids the gateway made: they are random."""
    return data.split(b"x-request-id: ")[0] + data[data.index(b"r-1") :]


WHOLE = converse([CONVERSATION])


def test_the_conversation_is_what_it_should_be() -> None:
    sent, seen = WHOLE
    assert re.findall(rb"HTTP/1.1 (\d+)", sent) == [b"200", b"200", b"200", b"400", b"200"]
    assert seen.count(CHAT) == seen.count(b"POST /v1/chat/completions") == 3
    assert [sent.index(b"r-%d" % number) for number in (1, 2, 3, 4)] == sorted(
        sent.index(b"r-%d" % number) for number in (1, 2, 3, 4)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=40))
def test_answers_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(CONVERSATION)]
    sent, seen = converse([CONVERSATION[start:end] for start, end in itertools.pairwise(edges)])
    assert anonymous(sent) == anonymous(WHOLE[0])
    assert seen == WHOLE[1]


# Order.


def test_pipelined_requests_are_answered_in_order_one_at_a_time(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(CHAT, b"X-Request-Id: r-1") + post(CHAT, b"X-Request-Id: r-2") + MODELS)
    assert (
        script
        << upstream("a", b"x-request-id: r-1")
        << client_sees_nothing()
        >> upstream_says("a", reply(b"one"))
        << client_sees(b"r-1", b"one")
        << upstream("a", b"x-request-id: r-2")
        >> upstream_says("a", reply(b"two"))
        << client_sees(b"r-2", b"two", b'"object":"list"')
    )


def test_too_many_pipelined_requests_are_refused_after_those_before(edge: Edge) -> None:
    Playbook(edge) >> client(MODELS * 2000)
    seen = edge.transport.take()
    assert seen.count(b"HTTP/1.1 200 OK") <= 101
    assert seen.count(b"HTTP/1.1 400 Bad Request") == 1
    assert edge.transport.eof


def test_garbage_after_a_request_is_refused_after_its_answer(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT) + b"\x00garbage")
        << client_sees_nothing()
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK", ANSWER, b"HTTP/1.1 400", b"bad_framing", closed=True)
    )


def test_a_client_that_sends_far_ahead_is_not_read(edge: Edge) -> None:
    large = b'{"model":"chat","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 700_000)
    Playbook(edge) >> client(post(CHAT)) >> client(post(large)) >> client(post(large))
    assert not edge.transport.reading
    Playbook(edge) >> upstream_says("a", reply(ANSWER)) >> upstream_says("a", reply(ANSWER))
    assert edge.transport.reading


def test_connection_close_is_honoured(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"Connection: close"))
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"Connection: close\r\n", ANSWER, closed=True)
    )


def test_http_1_0_is_answered_and_closed(edge: Edge) -> None:
    assert Playbook(edge) >> client(b"GET /v1/models HTTP/1.0\r\n\r\n") << client_sees(b"HTTP/1.1 200 OK", closed=True)


# Admission.


def test_expect_is_answered_once_the_head_has_passed(edge: Edge) -> None:
    head, _, body = post(CHAT, b"Expect: 100-continue").partition(b"\r\n\r\n")
    assert (
        Playbook(edge)
        >> client(head + b"\r\n\r\n")
        << client_sees_exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        >> client(body)
        << upstream("a", CHAT)
    )


def test_expect_is_not_answered_when_the_body_came_along(edge: Edge) -> None:
    assert Playbook(edge) >> client(post(CHAT, b"Expect: 100-continue")) << client_sees_nothing()


def test_expect_waits_for_the_answer_before_it(edge: Edge) -> None:
    head = post(CHAT, b"Expect: 100-continue").partition(b"\r\n\r\n")[0]
    assert (
        Playbook(edge)
        >> client(post(CHAT) + head + b"\r\n\r\n")
        << client_sees_nothing()
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK", ANSWER, b"HTTP/1.1 100 Continue\r\n\r\n")
    )


@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)])
def test_a_bad_key_is_refused_before_the_body_is_read(edge: Edge, expect: tuple[bytes, ...]) -> None:
    head = post(b"x" * 1000, b"Authorization: Bearer bad", *expect).partition(b"\r\n\r\n")[0]
    assert Playbook(edge) >> client(head + b"\r\n\r\n") << client_sees(b"HTTP/1.1 401", b"invalid_api_key", closed=True)
    assert edge.telemetry._refused == {Reason.INVALID_API_KEY: 1}


def test_a_refusal_before_the_body_has_the_shape_of_its_surface(edge: Edge) -> None:
    for path, error in ((b"/v2/models/m/infer", b'{"error":"'), (b"/v1/embeddings", b'{"error":{')):
        edge.connect()
        head = post(b"x", b"Authorization: Bearer bad", path=path)
        assert Playbook(edge) >> client(head) << client_sees(b"HTTP/1.1 401", error, closed=True)


def test_a_refused_client_is_read_on_for_a_while_and_not_reset(edge: Edge) -> None:
    Playbook(edge) >> client(b"garbage\r\n\r\n") << client_sees(b"HTTP/1.1 400")
    assert edge.transport.eof
    assert not edge.transport.closed
    Playbook(edge) >> client(b"more" * 1000) << client_sees_nothing()
    edge.pass_time(2.1)
    assert edge.transport.aborted


def test_a_full_house_says_so() -> None:
    edge = Edge("a")
    edge.door.admits = False
    edge.connect()
    assert Playbook(edge) << client_sees(b"HTTP/1.1 503", b"overloaded", closed=True)


# Time.


def test_a_slow_head_is_a_408(edge: Edge) -> None:
    script = Playbook(edge) >> client(b"GET /v1/models HTTP/1.1\r\n")
    for _ in range(9):
        assert script >> seconds(1) >> client(b"X-A: b\r\n") << client_sees_nothing()
    assert script >> seconds(1.1) << client_sees(b"HTTP/1.1 408", b"request_timeout", closed=True)
    assert edge.telemetry.value("connections.header_timeout") == 1


def test_a_slow_body_is_a_408(edge: Edge) -> None:
    script = Playbook(edge) >> client(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(20):
        script >> seconds(1) >> client(b"x" * 100)
    assert script >> seconds(5) << client_sees(b"HTTP/1.1 408", b"request_timeout", closed=True)
    assert edge.telemetry.value("connections.body_timeout") == 1


def test_a_body_at_the_least_rate_is_waited_for(edge: Edge) -> None:
    script = Playbook(edge) >> client(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(60):
        assert script >> seconds(1) >> client(b"x" * 1100) << client_sees_nothing()


def test_an_idle_connection_is_closed_quietly(edge: Edge) -> None:
    Playbook(edge) >> client(MODELS) << client_sees(b"200 OK") >> seconds(59) << client_sees_nothing()
    assert not edge.transport.closed
    assert Playbook(edge) >> seconds(2) << client_sees_exactly(b"")
    assert edge.transport.closed
    assert edge.telemetry.value("connections.idle_timeout") == 1


def test_a_connection_that_waits_for_its_answer_is_not_idle(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> seconds(100)
        << client_sees_nothing()
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK")
        >> seconds(59)
    )
    assert not edge.transport.closed


# Leaving.


def test_the_end_of_the_bytes_amid_a_request_is_a_framing_error(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT)[:-5])
    edge.client.eof_received()
    assert Playbook(edge) << client_sees(b"HTTP/1.1 400", b"bad_framing")


def test_draining_closes_what_is_idle_and_lets_the_rest_finish(edge: Edge) -> None:
    idle = edge.client
    edge.connect()
    busy = Playbook(edge) >> client(post(CHAT))
    edge.plane.draining = True
    for connection, _ in edge.clients:
        connection.drain()
    assert edge.clients[0][1].closed
    assert idle in edge.door.inside
    assert busy >> upstream_says("a", reply(ANSWER)) << client_sees(b"Connection: close\r\n", ANSWER, closed=True)


# Amplification (faults.md G13): what it costs us stays near what it costs the client.


def test_one_byte_chunks_cost_no_memory_and_no_copies(edge: Edge) -> None:
    count = 200_000
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"1\r\na\r\n" * count + b"0\r\n\r\n"
    connection = edge.client
    collected: set[int] = set()
    for start in range(0, len(data), 65536):
        connection.data_received(data[start : start + 65536])
        if connection._phase is Phase.BODY:
            assert isinstance(connection._body, bytearray)
            collected.add(id(connection._body))
            assert connection._body.__sizeof__() < 2 * count, "a chunk leaves its bytes and nothing else"
    assert len(collected) == 1, "a body grows where it is: copied for every chunk, it would cost the square of its size"
    assert Playbook(edge) << client_sees(b"HTTP/1.1 400", b"invalid_json")


def test_repr_says_where_it_stands(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT, b"X-Request-Id: r-1"))
    assert repr(edge.client) == "<ClientConnection IDLE waiting 0 <Exchange r-1 SENT attempt 1 at a>>"


def test_trailers_are_bounded_in_bytes(edge: Edge) -> None:
    edge.client.data_received(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    edge.client.data_received(b"2\r\n{}\r\n0\r\nX-Trailer: ")
    for _ in range(10):
        edge.client.data_received(b"a" * 8192)
    assert edge.transport.take().startswith(b"HTTP/1.1 431 ")
    assert not edge.outcomes
