"""What is collected of a worker's answer, and what is too much of one."""

import httptools
import pytest

from gateway.edge.reply import MAX_REPLY_FIELDS, MAX_REPLY_HEAD, Reply


def test_an_interim_answer_is_dropped() -> None:
    reading = Reply()
    reading.reset()
    reading.parser.feed_data(
        b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    )
    assert (reading.status, reading.fields, reading.complete) == (201, [(b"content-length", b"0")], True)
    assert repr(reading) == "<Reply 201 0 bytes complete>"


def test_the_body_is_taken_in_pieces() -> None:
    reading = Reply()
    reading.reset()
    reading.parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    assert (reading.take(), reading.size, reading.complete) == (b"ab", 2, False)
    reading.parser.feed_data(b"cd")
    assert (reading.take(), reading.size, reading.complete) == (b"cd", 4, True)


def test_bytes_that_belong_to_no_request_are_garbage() -> None:
    reading = Reply()
    with pytest.raises(httptools.HttpParserCallbackError):
        reading.parser.feed_data(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_head_beyond_reason_is_garbage() -> None:
    reading = Reply()
    reading.reset()
    with pytest.raises(httptools.HttpParserCallbackError):
        reading.parser.feed_data(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_REPLY_FIELDS + 1) + b"\r\n")
    assert not reading.heavy(MAX_REPLY_HEAD)
    assert reading.heavy(1)
