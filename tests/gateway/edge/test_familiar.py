"""A head recognised must mean what the same head parsed means, whatever else the bytes are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.client import ClientConnection
from gateway.edge.familiar import Familiar, learn
from gateway.edge.gate import Head
from tests.fakes import FakeKeys
from tests.playbook import ANSWER, CHAT, Edge, Playbook, client, client_sees, post, reply, upstream, upstream_says

FIELDS = (b"X-Custom: 1", b"Authorization: Bearer k", b"X-Request-Id: r-1")
REQUEST = post(CHAT, *FIELDS)
HEAD = Head(b"POST", b"/v1/chat/completions", "1.1", [(b"Host", b"gateway")])


def taught(data: bytes = REQUEST) -> tuple[Edge, Familiar]:
    edge = Edge("a")
    Playbook(edge) >> client(data) >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")
    edge.wire("a").take()
    known = edge.client._familiar
    assert known is not None
    return edge, known


def test_a_repeated_head_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    edge, _ = taught()
    monkeypatch.setattr(ClientConnection, "_parse", None)
    longer = CHAT.replace(b"hi", b"hello " * 100)
    assert (
        Playbook(edge)
        >> client(post(longer, *FIELDS))
        << upstream(
            "a", b"\r\nx-custom: 1\r\n", b"x-request-id: r-1", b"Content-Length: %d\r\n\r\n" % len(longer) + longer
        )
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )


def seen(edge: Edge, data: bytes) -> tuple[bytes, bytes, bool]:
    """What worker and client see of some bytes, and whether the connection lives on."""
    edge.client.data_received(data)
    link = edge.link("a")
    sent = edge.wire("a").take()
    if link.caller is not None:
        link.data_received(reply(ANSWER))
    answer = edge.transport.take()
    start = answer.find(b"x-request-id: ")  # made by the gateway where the bytes were refused before their id was read
    return sent, answer[:start] + answer[start + 46 :], edge.transport.closed or edge.transport.eof


TELLING = st.sampled_from([b"\r\n", b" ", b"0", b"9", b"\r\nX: y"])
mutations = st.one_of(
    st.tuples(st.just("set"), st.integers(0, len(REQUEST) - 1), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("insert"), st.integers(0, len(REQUEST)), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("insert"), st.integers(0, len(REQUEST)), TELLING),
    st.tuples(st.just("cut"), st.integers(0, len(REQUEST) - 1), st.just(b"")),
)


@settings(max_examples=300, deadline=None)
@given(mutations)
def test_changed_bytes_fare_as_they_would_without_it(mutation: tuple[str, int, bytes]) -> None:
    how, at, data = mutation
    after = {"set": at + len(data), "insert": at, "cut": at + 1}[how]
    mutated = REQUEST[:at] + data + REQUEST[after:]
    knowing, _ = taught()
    ignorant, _ = taught()
    ignorant.client._familiar = None
    ignorant.client._lessons = 0
    assert seen(knowing, mutated) == seen(ignorant, mutated)


@pytest.mark.parametrize(
    "data",
    [
        REQUEST[:-1],
        REQUEST + b"x",
        REQUEST + REQUEST,
        REQUEST.replace(b"X-Custom: 1", b"X-Custom: 2"),
        REQUEST.replace(b"Length: 60", b"Length: +60"),
        REQUEST.replace(b"Length: 60", b"Length: 060000060"),
        REQUEST.replace(b"Length: 60", b"Length: "),
        b"\r\n" + REQUEST,
        b"",
    ],
)
def test_anything_else_is_not_recognised(data: bytes) -> None:
    edge, known = taught()
    assert known.body(REQUEST, edge.plane) == CHAT
    assert known.body(data, edge.plane) is None


def test_new_rules_forget_it() -> None:
    for field in ("keys", "limits", "hosts"):
        edge, known = taught()
        new = {
            "keys": FakeKeys(),
            "limits": msgspec.structs.replace(edge.plane.limits),
            "hosts": frozenset({b"gateway"}),
        }[field]
        setattr(edge.plane, field, new)
        assert known.body(REQUEST, edge.plane) is None, field


def test_a_body_above_the_limit_is_not_recognised() -> None:
    edge = Edge("a")
    edge.use(body_bytes=100)
    Playbook(edge) >> client(REQUEST) >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")
    large = post(b"x" * 101, *FIELDS)
    assert Playbook(edge) >> client(large) << client_sees(b"HTTP/1.1 413", closed=True)


@pytest.mark.parametrize(
    "data",
    [
        post(CHAT, b"Expect: 100-continue"),
        b"\r\n" + REQUEST,
        post(CHAT, b"X: " + b"a" * 5000),
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_learnt(data: bytes) -> None:
    head = Head(b"POST", b"/v1/x", "1.1", [(b"expect", b"100-continue")] if b"Expect" in data else [])
    edge = Edge("a")
    assert learn(data, head, FakeKeys().client(None, True), edge.plane) is None


def test_a_client_that_never_repeats_itself_is_not_studied_for_ever() -> None:
    edge = Edge("a")
    for number in range(10):
        data = post(CHAT, b"X-Request-Id: r-%d" % number)
        assert Playbook(edge) >> client(data) >> upstream_says("a", reply(ANSWER)) << client_sees(b"r-%d" % number)
    assert edge.client._lessons == 0
    assert "POST /v1/chat" in repr(edge.client._familiar)
