"""Writes refusals and failures: a `Reason` becomes the bytes a client gets, in OpenAI's error shape.

The only place that chooses status bytes, and it only looks them up in `policies.reason.TABLE`. Nothing a client sent
is repeated: messages are fixed text and the `detail` of a `Shed`, which is ours.
"""

import http
import math

import orjson

from policies.reason import TABLE, Meaning, Reason
from policies.request import Shed

OIP = b"/v2/"
"""Paths of the Open Inference Protocol, which has errors of its own shape."""
MAX_RETRY_AFTER = 3600
"""Seconds. A longer wait is a guess; a client that waits an hour may as well ask again."""


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else http.HTTPStatus(status).phrase  # 499 is nginx's, not IANA's


def _head(meaning: Meaning) -> bytes:
    """The part of the head that depends on the reason alone."""
    lines = [
        f"HTTP/1.1 {meaning.http} {_phrase(meaning.http)}",
        "content-type: application/json",
        "cache-control: no-store",
    ]
    if meaning.http == 401:
        lines.append("www-authenticate: Bearer")  # RFC 9110 15.5.2 asks for a challenge
    return "\r\n".join([*lines, ""]).encode()


def document(reason: Reason, message: str, param: str | None) -> dict[str, object]:
    """The error in OpenAI's shape; `message` is ours, never the client's bytes."""
    meaning = TABLE[reason]
    return {"error": {"message": message, "type": meaning.type, "param": param, "code": meaning.code}}


_HEADS = {reason: _head(meaning) for reason, meaning in TABLE.items()}
_BODIES = {reason: orjson.dumps(document(reason, meaning.message, None)) for reason, meaning in TABLE.items()}


def body(shed: Shed) -> bytes:
    """The JSON body alone, for surfaces that write their own head."""
    if not shed.detail and shed.param is None:
        return _BODIES[shed.reason]
    message = TABLE[shed.reason].message
    return orjson.dumps(document(shed.reason, f"{message} {shed.detail}" if shed.detail else message, shed.param))


def flat(shed: Shed) -> bytes:
    """As the Open Inference Protocol has it: `error` is the sentence, the rest stands beside it."""
    meaning = TABLE[shed.reason]
    message = f"{meaning.message} {shed.detail}" if shed.detail else meaning.message
    return orjson.dumps({"error": message, "type": meaning.type, "param": shed.param, "code": meaning.code})


def retry_after(shed: Shed) -> int | None:
    """Whole seconds for `Retry-After`, at least one; None where waiting does not help or nobody knows how long."""
    meaning = TABLE[shed.reason]
    if not meaning.waits:
        return None
    if shed.retry_after is None or math.isnan(shed.retry_after):
        return 1 if meaning.retry else None
    return max(1, math.ceil(min(shed.retry_after, MAX_RETRY_AFTER)))


def retry(shed: Shed) -> bytes:
    """The lines that say whether to send the same request again, and when: a wait is named only where it may help."""
    wait = retry_after(shed)
    if wait is not None:
        return b"x-should-retry: true\r\nretry-after: %d\r\n" % wait
    return b"x-should-retry: true\r\n" if TABLE[shed.reason].retry else b"x-should-retry: false\r\n"


def answer(
    shed: Shed, request_id: str, *, path: bytes = b"", attempts: int = 0, close: bool = False, allow: str = ""
) -> bytes:
    """The whole HTTP/1.1 response. `request_id` must be one `headers.py` accepted or made; `allow` goes with a 405,
    and what was asked decides the shape."""
    content = flat(shed) if path.startswith(OIP) else body(shed)
    tail = f"x-request-id: {request_id}\r\nx-route-attempts: {attempts}\r\n"
    if shed.reason is Reason.METHOD_NOT_ALLOWED:
        tail += f"allow: {allow}\r\n"  # RFC 9110 15.5.6 requires it; empty says that no method is taken
    if close:
        tail += "connection: close\r\n"
    head = _HEADS[shed.reason] + retry(shed) + tail.encode()
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(content), content)


def event(reason: Reason, request_id: str) -> bytes:
    """The SSE event that ends a broken stream. Neither `[DONE]` nor the terminal chunk may follow: a stream that ends
    cleanly after an error would read as complete to some clients."""
    error = document(reason, TABLE[reason].message, None)
    return b"data: %b\n\n" % orjson.dumps({**error, "request_id": request_id})
