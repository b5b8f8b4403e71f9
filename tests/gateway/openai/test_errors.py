import math

import orjson
import pytest

from gateway.openai.errors import MAX_RETRY_AFTER, answer, event, retry_after
from policies.reason import TABLE, Reason
from policies.request import Shed


def parsed(raw: bytes) -> tuple[int, dict[str, str], dict]:
    head, _, content = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert int(headers["content-length"]) == len(content)
    return int(status.split(" ")[1]), headers, orjson.loads(content)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_the_one_shape(reason):
    status, headers, document = parsed(answer(Shed(reason), "id-1", attempts=2, allow="GET"))
    meaning = TABLE[reason]
    assert status == meaning.http
    assert headers["x-request-id"] == "id-1"
    assert headers["x-route-attempts"] == "2"
    assert headers["x-should-retry"] == ("true" if meaning.retry else "false")
    assert headers["content-type"] == "application/json"
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["code"] == meaning.code
    assert document["error"]["message"] == meaning.message
    assert ("www-authenticate" in headers) == (status == 401)
    assert ("allow" in headers) == (status == 405)
    assert "connection" not in headers
    assert meaning.waits or "retry-after" not in headers


def test_detail_and_param_are_told():
    _, _, document = parsed(answer(Shed(Reason.BAD_REQUEST, 'Say "x".', "x-deadline-ms"), "i"))
    assert document["error"]["message"].endswith('Say "x".')
    assert document["error"]["param"] == "x-deadline-ms"


def test_the_open_inference_protocol_has_the_sentence_in_the_place_of_the_object():
    status, _, document = parsed(
        answer(Shed(Reason.BAD_REQUEST, 'Say "x".', "inputs"), "i", path=b"/v2/models/m/infer")
    )
    assert status == 400
    assert document.pop("error").endswith('Say "x".')
    assert document == {"type": "invalid_request_error", "param": "inputs", "code": "bad_request"}


def test_close():
    assert parsed(answer(Shed(Reason.BAD_FRAMING), "i", close=True))[1]["connection"] == "close"


@pytest.mark.parametrize(
    ("reason", "seconds", "expected"),
    [
        (Reason.NO_CAPACITY, None, 1),
        (Reason.NO_CAPACITY, 0.0, 1),
        (Reason.NO_CAPACITY, 1.01, 2),
        (Reason.NO_CAPACITY, math.inf, MAX_RETRY_AFTER),
        (Reason.NO_CAPACITY, math.nan, 1),
        (Reason.DEADLINE_INFEASIBLE, None, None),
        (Reason.DEADLINE_INFEASIBLE, 2.5, 3),
        (Reason.BAD_REQUEST, 5.0, None),
        (Reason.DEADLINE_EXCEEDED, 5.0, None),
    ],
)
def test_retry_after_is_whole_and_only_where_waiting_helps(reason, seconds, expected):
    shed = Shed(reason, retry_after=seconds)
    assert retry_after(shed) == expected
    headers = parsed(answer(shed, "i"))[1]
    assert headers.get("retry-after") == (None if expected is None else str(expected))
    assert headers["x-should-retry"] == ("true" if expected else "false")


def test_the_stream_event_is_one_whole_data_event():
    raw = event(Reason.STREAM_INTERRUPTED, "id-1")
    assert raw.startswith(b"data: {")
    assert raw.endswith(b"}\n\n")
    assert raw.count(b"\n") == 2
    document = orjson.loads(raw[6:])
    assert document["error"]["code"] == "stream_interrupted"
    assert document["request_id"] == "id-1"
