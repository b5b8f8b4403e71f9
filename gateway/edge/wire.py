"""Every literal byte the data plane writes, and the names it looks for in what it reads.

Nothing here decides anything. Header names are lower case on the way in (the parser's side lowers them) and in
conventional case on the way out. Look next at gate.py for what is refused and relay.py for what is passed on.
"""

import http

CRLF = b"\r\n"
HEAD_END = b"\r\n\r\n"
COLON = b": "

# Request heads we write.
REQUEST_VERSION = b" HTTP/1.1\r\nHost: "
CONTENT_LENGTH = b"\r\nContent-Length: "
REQUEST_ID = b"\r\nx-request-id: "
TRACEPARENT = b"\r\ntraceparent: "
DEADLINE = b"\r\nx-deadline-ms: "
FIRST_TOKEN = b"\r\nx-slo-ttft-ms: "
EXPECTED_WAIT = b"\r\nx-isochrone-wait-ms: "
NO_WAIT = EXPECTED_WAIT + b"0"
EXPECTED_TIMEOUT = b"\r\nx-envoy-expected-rq-timeout-ms: "
VARIANT = b"\r\nx-isochrone-variant: "
ATTEMPT = b"\r\nx-envoy-attempt-count: "
HEDGE = b"\r\nx-isochrone-hedge: "
LOAD_WANTED = b"\r\nendpoint-load-metrics-format: JSON"
POST = b"POST "
REQUEST_ENDING = b"".join(
    (b"%b", REQUEST_ID, b"%b", DEADLINE, b"%d", EXPECTED_TIMEOUT, b"%d", CONTENT_LENGTH, b"%d", HEAD_END)
)
"""What comes before it, the id, the milliseconds left (twice), the length of the body."""

# Answer heads we write.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"\r\nTransfer-Encoding: chunked"
CLOSE = b"\r\nConnection: close"
KEEP_ALIVE = b"\r\nConnection: keep-alive"
JSON = b"\r\nContent-Type: application/json"
NEAREST = b"\r\nx-gateway-nearest: "
LAST_CHUNK = b"0\r\n\r\n"
ROUTE_NODE = b"\r\nx-route-node: "
ROUTE_REGION = b"\r\nx-route-region: "
ROUTE_VARIANT = b"\r\nx-route-variant: "
ROUTE_COST = b"\r\nx-route-cost-usd: "
ROUTE_ETA = b"\r\nx-route-eta-ms: "
ROUTE_ATTEMPTS = b"\r\nx-route-attempts: "
ROUTE_REASON = b"\r\nx-route-reason: "
SERVER_TIMING = b"\r\nServer-Timing: "

STATUS_LINES = {status.value: b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode()) for status in http.HTTPStatus}


JOIN_BYTES = 16 * 1024
"""Head and body shorter than this are joined: the copy costs less than a second write."""


def status_line(status: int) -> bytes:
    """The first line of an answer, without its line end; unregistered codes get an empty phrase."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status


# RFC 9110 section 7.6.1, and the names older peers still send: they speak about one connection, never about the
# message, so none crosses this gateway in either direction.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)

# What a client sends that no worker gets: framing and identity we write ourselves, credentials meant for us, claims
# about the client's address that a worker must not believe, and leave to encode answers whose events we must see.
NOT_FORWARDED = HOP_BY_HOP | frozenset(
    (
        b"host",
        b"content-length",
        b"expect",
        b"accept-encoding",
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"cookie",
        b"x-request-id",
        b"traceparent",
        b"forwarded",
        b"x-real-ip",
        b"via",
        b"x-envoy-attempt-count",
        b"x-envoy-expected-rq-timeout-ms",
        b"endpoint-load-metrics-format",
    )
)
NOT_FORWARDED_PREFIXES = (b"x-isochrone-", b"x-forwarded-", b"x-route-")

# What a worker's answer may say to a client. Everything else is dropped: workers are only half trusted.
ANSWER_FIELDS = frozenset(
    (
        b"content-type",
        b"content-encoding",
        b"content-language",
        b"content-disposition",
        b"cache-control",
        b"date",
        b"etag",
        b"expires",
        b"inference-header-content-length",
        b"last-modified",
        b"retry-after",
        b"vary",
        b"warning",
    )
)
ANSWER_PREFIXES = (b"openai-", b"anthropic-", b"x-")
ANSWER_DENIED_PREFIXES = (
    b"x-isochrone-",
    b"x-route-",
    b"x-gateway-",
    b"x-request-id",
    b"x-should-retry",
    b"x-accel-",
    b"x-envoy-",
    b"x-forwarded-",
    b"x-powered-by",
    b"x-endpoint-load-metrics",
)

# Server-sent events.
EVENT_STREAM = b"text/event-stream"
LF_LF = b"\n\n"
LF_CR_LF = b"\n\r\n"
CR_CR = b"\r\r"
EVENT_ENDS = (LF_LF, LF_CR_LF, CR_CR)
DATA = b"data:"
DONES = (b"data: [DONE]", b"data:[DONE]")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
