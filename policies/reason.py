"""Every way a request can be refused or fail, and the one table that says what that means outside.

`Reason` is the word used inside; `TABLE` maps it to the HTTP status, the gRPC status, the stable error code a
client may branch on, and the retry hints. The metric label and the log field are `Reason.label`.
Nothing else in the project chooses a status code.
"""

import enum
from typing import NamedTuple


class Grpc(enum.IntEnum):
    """The gRPC status codes this project answers with (https://grpc.io/docs/guides/status-codes/)."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(enum.Enum):
    """Why a request was refused, or why an attempt at it failed."""

    # The client's side: the request itself is at fault, and sending it again unchanged cannot help.
    BAD_REQUEST = enum.auto()
    INVALID_JSON = enum.auto()
    BAD_FRAMING = enum.auto()
    INVALID_API_KEY = enum.auto()
    FORBIDDEN = enum.auto()
    NOT_FOUND = enum.auto()
    MODEL_NOT_FOUND = enum.auto()
    METHOD_NOT_ALLOWED = enum.auto()
    REQUEST_TIMEOUT = enum.auto()
    BODY_TOO_LARGE = enum.auto()
    UNSUPPORTED_ENCODING = enum.auto()
    EXPECTATION_FAILED = enum.auto()
    MISDIRECTED = enum.auto()
    HEADERS_TOO_LARGE = enum.auto()
    HTTP_VERSION = enum.auto()
    CLIENT_GONE = enum.auto()
    # The client's own constraints leave no node of the fleet as it stands.
    PRICE_CAP = enum.auto()
    QUALITY_FLOOR = enum.auto()
    REGION_LOCKED = enum.auto()
    NO_MATCHING_NODE = enum.auto()
    # The deadline.
    DEADLINE_INFEASIBLE = enum.auto()
    DEADLINE_EXCEEDED = enum.auto()
    # The fleet's side.
    NO_CAPACITY = enum.auto()
    OVERLOADED = enum.auto()
    DRAINING = enum.auto()
    # One attempt at a worker failed; the client sees these only when no other attempt is allowed.
    CONNECT_FAILED = enum.auto()
    REFUSED = enum.auto()
    UPSTREAM_LOST = enum.auto()
    UPSTREAM_ERROR = enum.auto()
    BAD_UPSTREAM_REPLY = enum.auto()
    STREAM_INTERRUPTED = enum.auto()
    OUTRUN = enum.auto()
    """The other one of a hedged pair answered first: no client ever hears of it, and it says nothing of the worker."""
    # Ours.
    INTERNAL = enum.auto()

    @property
    def label(self) -> str:
        """The low-cardinality name for metrics and logs."""
        return self.name.lower()


class Meaning(NamedTuple):
    """What a reason means outside: one row of `TABLE`."""

    http: int
    grpc: Grpc
    code: str
    """The stable string in `error.code`; several reasons may share one."""
    retry: bool
    """`x-should-retry`: whether the same request, sent again, may succeed."""
    waits: bool
    """Whether waiting helps, so that `Retry-After` is sent."""
    message: str
    """Fixed text for the client: no input bytes, no worker addresses."""

    @property
    def type(self) -> str:
        """OpenAI's `error.type` for this status."""
        if self.http == 401:
            return "authentication_error"
        if self.http == 403:
            return "permission_error"
        if self.http == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.http < 500 else "server_error"


_FIX = "see the `param` field for what to change"

TABLE: dict[Reason, Meaning] = {
    Reason.BAD_REQUEST: Meaning(400, Grpc.INVALID_ARGUMENT, "bad_request", False, False, f"The request is not valid; {_FIX}."),
    Reason.INVALID_JSON: Meaning(400, Grpc.INVALID_ARGUMENT, "invalid_json", False, False, "The body is not one JSON object."),
    Reason.BAD_FRAMING: Meaning(400, Grpc.INVALID_ARGUMENT, "bad_framing", False, False, "The HTTP message is malformed."),
    Reason.INVALID_API_KEY: Meaning(401, Grpc.UNAUTHENTICATED, "invalid_api_key", False, False, "The API key is missing or not valid."),
    Reason.FORBIDDEN: Meaning(403, Grpc.PERMISSION_DENIED, "forbidden", False, False, "This key may not do that."),
    Reason.NOT_FOUND: Meaning(404, Grpc.UNIMPLEMENTED, "not_found", False, False, "No such path."),
    Reason.MODEL_NOT_FOUND: Meaning(404, Grpc.NOT_FOUND, "model_not_found", False, False, "No node serves this model; GET /v1/models lists those served."),
    Reason.METHOD_NOT_ALLOWED: Meaning(405, Grpc.UNIMPLEMENTED, "method_not_allowed", False, False, "This path does not take this method."),
    Reason.REQUEST_TIMEOUT: Meaning(408, Grpc.DEADLINE_EXCEEDED, "request_timeout", False, False, "The request arrived too slowly."),
    Reason.BODY_TOO_LARGE: Meaning(413, Grpc.RESOURCE_EXHAUSTED, "body_too_large", False, False, "The body is larger than this gateway accepts."),
    Reason.UNSUPPORTED_ENCODING: Meaning(415, Grpc.INVALID_ARGUMENT, "unsupported_encoding", False, False, "Send the body without Content-Encoding."),
    Reason.EXPECTATION_FAILED: Meaning(417, Grpc.INVALID_ARGUMENT, "expectation_failed", False, False, "Expect may only be 100-continue."),
    Reason.MISDIRECTED: Meaning(421, Grpc.INVALID_ARGUMENT, "misdirected", False, False, "This gateway does not answer for that Host."),
    Reason.HEADERS_TOO_LARGE: Meaning(431, Grpc.INVALID_ARGUMENT, "headers_too_large", False, False, "The header section is too large."),
    Reason.HTTP_VERSION: Meaning(505, Grpc.INVALID_ARGUMENT, "http_version", False, False, "Only HTTP/1.1 and HTTP/1.0 are spoken here."),
    Reason.CLIENT_GONE: Meaning(499, Grpc.CANCELLED, "client_gone", False, False, "The client left."),
    Reason.PRICE_CAP: Meaning(400, Grpc.FAILED_PRECONDITION, "price_cap", False, False, "No node serves this request within the price cap."),
    Reason.QUALITY_FLOOR: Meaning(400, Grpc.FAILED_PRECONDITION, "quality_floor", False, False, "No variant of this model reaches the quality floor."),
    Reason.REGION_LOCKED: Meaning(400, Grpc.FAILED_PRECONDITION, "region_locked", False, False, "No node serves this model in the allowed regions."),
    Reason.NO_MATCHING_NODE: Meaning(400, Grpc.FAILED_PRECONDITION, "no_matching_node", False, False, "No node matches `provider` in the body."),
    Reason.DEADLINE_INFEASIBLE: Meaning(429, Grpc.RESOURCE_EXHAUSTED, "deadline_infeasible", False, True, "No node is predicted to meet the deadline."),
    Reason.DEADLINE_EXCEEDED: Meaning(504, Grpc.DEADLINE_EXCEEDED, "deadline_exceeded", False, False, "The deadline passed before an answer was complete."),
    Reason.NO_CAPACITY: Meaning(503, Grpc.UNAVAILABLE, "no_capacity", True, True, "No node of this model can take a request now."),
    Reason.OVERLOADED: Meaning(503, Grpc.UNAVAILABLE, "overloaded", True, True, "The fleet is overloaded."),
    Reason.DRAINING: Meaning(503, Grpc.UNAVAILABLE, "draining", True, True, "This gateway is shutting down."),
    Reason.CONNECT_FAILED: Meaning(503, Grpc.UNAVAILABLE, "no_capacity", True, True, "No worker could be reached."),
    Reason.REFUSED: Meaning(503, Grpc.UNAVAILABLE, "overloaded", True, True, "Every worker tried refused the request unexecuted."),
    Reason.UPSTREAM_LOST: Meaning(502, Grpc.UNAVAILABLE, "bad_upstream_reply", False, False, "The worker was lost before it answered."),
    Reason.UPSTREAM_ERROR: Meaning(502, Grpc.INTERNAL, "bad_upstream_reply", False, False, "The worker failed."),
    Reason.BAD_UPSTREAM_REPLY: Meaning(502, Grpc.INTERNAL, "bad_upstream_reply", False, False, "The worker's reply was not valid."),
    Reason.STREAM_INTERRUPTED: Meaning(502, Grpc.UNAVAILABLE, "stream_interrupted", False, False, "The stream was interrupted; what arrived is incomplete."),
    Reason.OUTRUN: Meaning(499, Grpc.CANCELLED, "outrun", False, False, "Another worker answered first."),
    Reason.INTERNAL: Meaning(500, Grpc.INTERNAL, "internal_error", False, False, "The gateway failed; the request id names the log line."),
}  # fmt: skip
