"""What of a worker's answer crosses, and events however they are cut."""

from __future__ import annotations

import itertools

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import relay
from gateway.edge.relay import Events
from gateway.edge.reply import Reply
from policies.reason import Reason
from tests.playbook import reply as answer_bytes


def parsed(data: bytes) -> Reply:
    reply = Reply()
    reply.reset()
    reply.parser.feed_data(data)
    return reply


def test_only_listed_fields_cross() -> None:
    reply = parsed(
        answer_bytes(
            b"",
            b"Content-Type: application/json",
            b"Connection: keep-alive",
            b"Set-Cookie: a=b",
            b"Server: uvicorn",
            b"Server-Timing: queue;dur=1",
            b"OpenAI-Processing-Ms: 5",
            b"X-RateLimit-Limit: 9",
            b"X-Request-Id: theirs",
            b"X-Route-Node: forged",
            b"X-Isochrone-Executed: 0",
            b"Access-Control-Allow-Origin: *",
        )
    )
    assert relay.head(reply, b"ours") == (
        b"HTTP/1.1 200 OK\r\nx-request-id: ours\r\ncontent-type: application/json"
        b"\r\nopenai-processing-ms: 5\r\nx-ratelimit-limit: 9"
    )


@pytest.mark.parametrize("control", [byte for byte in (*range(32), 127) if byte != 9])
def test_a_control_character_never_crosses(control: int) -> None:
    """The parser refuses it; head() relies on that."""
    with pytest.raises(httptools.HttpParserError):
        parsed(b"HTTP/1.1 200 OK\r\nX-A: a%cb\r\nContent-Length: 0\r\n\r\n" % control)


@pytest.mark.parametrize(
    ("status", "named", "reason"),
    [
        (200, {}, None),
        (400, {}, None),
        (429, {}, None),
        (301, {}, Reason.BAD_UPSTREAM_REPLY),
        (500, {}, Reason.UPSTREAM_ERROR),
        (503, {}, Reason.UPSTREAM_ERROR),
        (503, {b"x-isochrone-executed": b"0"}, Reason.REFUSED),
        (504, {b"x-isochrone-executed": b"0"}, Reason.DEADLINE_EXCEEDED),
        (404, {b"x-isochrone-executed": b"0"}, Reason.MODEL_NOT_FOUND),
        (404, {}, None),
        (500, {b"x-isochrone-executed": b"0"}, Reason.UPSTREAM_ERROR),
        (503, {b"x-isochrone-executed": b"1"}, Reason.UPSTREAM_ERROR),
        (200, {b"transfer-encoding": b"Chunked"}, None),
        (200, {b"transfer-encoding": b"gzip, chunked"}, Reason.BAD_UPSTREAM_REPLY),
        (200, {b"content-encoding": b"gzip"}, None),
        (200, {b"content-encoding": b"gzip", b"content-type": b"text/event-stream"}, Reason.BAD_UPSTREAM_REPLY),
    ],
)
def test_verdicts(status: int, named: dict[bytes, bytes], reason: Reason | None) -> None:
    reply = Reply()
    reply.status = status
    assert relay.verdict(reply, named) is reason


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"usage":{"completion_tokens":17,"prompt_tokens":3}}', 17),
        (b'{"usage":{"output_tokens": 5}}', 5),
        (b'{"choices":[]}', None),
        (b'{"usage":{"completion_tokens":1}}' + b" " * 4000, None),
    ],
)
def test_output_tokens_are_read_from_the_end(body: bytes, tokens: int | None) -> None:
    assert relay.output_tokens(body) == tokens


EVENTS = (
    b'data: {"a":1}\n\n',
    b'event: x\ndata: {"b":2}\n\n',
    b": comment\n\n",
    b'data: {"c":3}\r\n\r\n',
    b": timing queue;dur=2.0, prefill;dur=10.0\n\n",
    b'data: {"usage":{"completion_tokens":42}}\n\n',
    b"data: [DONE]\n\n",
)
STREAM = b"".join(EVENTS)


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=20))
def test_events_go_out_whole_however_they_come_in(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(STREAM)]
    events = Events()
    out = b""
    ends = [len(b"".join(EVENTS[: index + 1])) for index in range(len(EVENTS))]
    for start, end in itertools.pairwise(edges):
        out += events.feed(STREAM[start:end])
        assert len(out) in (0, *ends)
    assert out == STREAM
    assert events.finish() == b""
    assert events.done
    assert events.output_tokens == 42
    assert (events.timings.queue, events.timings.prefill) == (0.002, 0.01)


def test_without_usage_events_are_counted() -> None:
    events = Events()
    events.feed(b"data: a\n\ndata: b\n\ndata: [DONE]\n\n")
    assert events.output_tokens == 2


def test_what_stands_after_the_last_event_is_kept_for_a_clean_end() -> None:
    events = Events()
    assert events.feed(b"data: a\n\ndata: [DONE]\n") == b"data: a\n\n"
    assert not events.done
    assert events.finish() == b"data: [DONE]\n"
    assert events.done
    assert repr(events) == "<Events 1 done rest 0>"


def test_an_endless_event_is_refused() -> None:
    events = Events()
    events.feed(b"x" * relay.MAX_EVENT)
    with pytest.raises(relay.OversizeError):
        events.feed(b"x")


def test_what_a_model_writes_is_neither_timing_nor_an_end_nor_a_token() -> None:
    events = Events()
    events.feed(b'data: {"text":": timing accel;dur=1 data: [DONE] data: x"}\n\n')
    assert (events.timings.accel, events.done, events.output_tokens) == (None, False, 1)
    events.feed(b": timing accel;dur=2\r\n\r\ndata:[DONE]\r\n\r\n")
    assert (events.timings.accel, events.done, events.output_tokens) == (0.002, True, 1)


LOAD = b": load JSON {}\n\n"


@given(st.lists(st.integers(1, len(STREAM) + len(LOAD) - 1), max_size=20), st.integers(0, len(EVENTS)))
def test_the_workers_load_is_taken_out_wherever_it_stands_and_however_it_comes(cuts: list[int], place: int) -> None:
    with_load = b"".join((*EVENTS[:place], LOAD, *EVENTS[place:]))
    edges = [0, *sorted(set(cuts)), len(with_load)]
    events = Events()
    out = b"".join(events.feed(with_load[start:end]) for start, end in itertools.pairwise(edges))
    assert (out, events.report) == (STREAM, b"JSON {}")
    assert events.done
    assert events.timings.queue == 0.002


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"text":"\\n: load JSON {}"}\n\n',
        b"data: a\n: load JSON {}\n\n",
        b": load JSON {}\ndata: a\n\n",
        b"data: a\r\n\r\n: load JSON {}\r\n\r\n",
    ],
)
def test_what_is_part_of_an_event_stays_as_it_is(event: bytes) -> None:
    events = Events()
    assert events.feed(event) == event
    assert events.report is None
