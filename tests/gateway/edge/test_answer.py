"""One answer: framed by length, by chunks or by the end of the connection, and never falsely complete."""

from __future__ import annotations

import pytest

from gateway.edge.answer import Answer
from gateway.edge.flow import Outlet
from gateway.edge.gate import Head
from policies.reason import Reason
from policies.request import Shed
from tests.fakes import FakeTransport

FIELDS = b"HTTP/1.1 200 OK\r\nx-a: b"


def answering(
    method: bytes = b"POST", version: str = "1.1", keep: bool = True, target: bytes = b"/v1/x"
) -> tuple[Answer, FakeTransport]:
    transport = FakeTransport()
    answer = Answer(Outlet(transport), Head(method, target, version, []), keep)
    answer.id = "r-1"
    return answer, transport


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_a_whole_answer_is_framed_by_its_length(size: int) -> None:
    answer, transport = answering()
    answer.whole(200, FIELDS, b"x" * size)
    assert transport.take() == FIELDS + b"\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    assert answer.status == 200


def test_pieces_are_chunks_unless_the_length_is_known() -> None:
    answer, transport = answering()
    answer.begin(200, FIELDS, None)
    answer.piece(b"abc")
    answer.end()
    assert transport.take() == FIELDS + b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer, transport = answering()
    answer.begin(200, FIELDS, b"3")
    answer.piece(b"abc")
    answer.end()
    assert transport.take() == FIELDS + b"\r\nContent-Length: 3\r\n\r\nabc"


def test_to_http_1_0_the_end_of_the_connection_ends_the_body() -> None:
    answer, transport = answering(version="1.0")
    answer.begin(200, FIELDS, None)
    answer.piece(b"abc")
    answer.end()
    assert transport.take() == FIELDS + b"\r\nConnection: close\r\n\r\nabc"
    assert not answer.keep


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.UPSTREAM_LOST, b"stream_interrupted"), (Reason.DEADLINE_EXCEEDED, b"deadline_exceeded")],
)
def test_an_interrupted_stream_says_so_and_does_not_end(reason: Reason, code: bytes) -> None:
    answer, transport = answering()
    answer.begin(200, FIELDS, None)
    transport.take()
    answer.interrupt(reason, events=True)
    sent = transport.take()
    assert code in sent
    assert not sent.endswith(b"0\r\n\r\n")
    assert not answer.keep


def test_an_interrupted_body_just_stops() -> None:
    answer, transport = answering()
    answer.begin(200, FIELDS, b"100")
    transport.take()
    answer.interrupt(Reason.UPSTREAM_LOST, events=False)
    assert transport.take() == b""
    assert not answer.keep


def test_a_refusal_says_how_often_it_was_tried_and_what_is_allowed() -> None:
    answer, transport = answering(method=b"GET", keep=False)
    answer.refuse(Shed(Reason.METHOD_NOT_ALLOWED), attempts=2)
    sent = transport.take()
    for part in (
        b"HTTP/1.1 405 ",
        b"x-route-attempts: 2",
        b"allow: POST\r\n",
        b"connection: close",
        b"x-request-id: r-1",
    ):
        assert part in sent
    assert answer.status == 405


def test_a_refusal_has_the_shape_of_the_surface_it_was_asked_on() -> None:
    for target, error in ((b"/v2/models/m/infer", b'{"error":"'), (b"/v1/embeddings", b'{"error":{')):
        answer, transport = answering(target=target)
        answer.refuse(Shed(Reason.MODEL_NOT_FOUND), attempts=0)
        assert error in transport.take()


def test_a_client_that_left_gets_nothing() -> None:
    answer, transport = answering()
    answer.abandon()
    assert (transport.take(), answer.status, answer.keep) == (b"", 499, False)
