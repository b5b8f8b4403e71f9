"""Upstream to client: what of a worker's answer is passed on, and in what framing.

The body goes through byte for byte; head and framing are our own. Invariants: no field crosses that is not listed (nor
a control character: llhttp refuses those), and an event stream only by whole events, because an error event after half
of one could not be read. What an answer means for routing is `verdict`; what is done about it, exchange.py.
"""

from __future__ import annotations

import functools
import re

from gateway.edge import wire
from gateway.edge.reply import Reply
from policies.reason import Reason
from policies.records import EXECUTED_HEADER, NO_TIMINGS, TIMING_COMMENT, TIMING_HEADER, Timings, decode_timings
from policies.reports import REPORT_COMMENT
from policies.request import Dispatch, Outcome

COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*([0-9]{1,9})')
USAGE_TAIL = 512
"""Where a reply's `usage` is looked for: engines write it last."""
EXECUTED = EXECUTED_HEADER.encode()
TIMING = TIMING_HEADER.encode()
UNEXECUTED = {404: Reason.MODEL_NOT_FOUND, 503: Reason.REFUSED, 504: Reason.DEADLINE_EXCEEDED}
"""What a worker's refusal means that carries the marker: another worker may do it."""
MAX_EVENT = 1024 * 1024
"""Bytes of one server-sent event; a longer one is garbage, and would be buffered without end."""


class OversizeError(Exception):
    """The worker's stream can't be passed on."""


def verdict(reply: Reply, named: dict[bytes, bytes]) -> Reason | None:
    """What a worker's answer amounts to, by its head: None to pass it on, else how the attempt failed."""
    status = reply.status
    if status == 200 and b"transfer-encoding" not in named and b"content-encoding" not in named:
        return None  # nothing of what follows; the usual case
    if unexecuted(reply, named):
        return UNEXECUTED[status]
    if status >= 500:
        return Reason.UPSTREAM_ERROR
    if 300 <= status < 400:
        return Reason.BAD_UPSTREAM_REPLY  # never followed: a worker may not choose where a request goes
    coding = named.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        return Reason.BAD_UPSTREAM_REPLY
    if b"content-encoding" in named and streams(named):
        return Reason.BAD_UPSTREAM_REPLY  # events in it can't be told apart
    return None


def unexecuted(reply: Reply, named: dict[bytes, bytes]) -> bool:
    """Whether the worker surely did not start on the request: it refused, and said so."""
    return reply.status in UNEXECUTED and named.get(EXECUTED) == b"0"


def streams(named: dict[bytes, bytes]) -> bool:
    """Whether the answer is a stream of events."""
    kind = named.get(b"content-type")
    return kind is not None and kind[: len(wire.EVENT_STREAM)].lower() == wire.EVENT_STREAM


def framed(reply: Reply, named: dict[bytes, bytes]) -> bool:
    """Whether its end is marked; if not, it ends with the connection and can't be told from a truncated one."""
    return b"content-length" in named or b"transfer-encoding" in named or reply.status in (204, 304)


def head(reply: Reply, request_id: bytes) -> bytes:
    """The answer's head without its framing and its end: our status line and id, the worker's allowed fields."""
    lines = [wire.status_line(reply.status), wire.REQUEST_ID, request_id]
    for name, value in reply.fields:
        if _passes(name):
            lines += (wire.CRLF, name, wire.COLON, value)
    return b"".join(lines)


@functools.lru_cache(maxsize=512)  # workers' names are few and repeat; at most 32 MiB of hostile ones
def _passes(name: bytes) -> bool:
    return name in wire.ANSWER_FIELDS or (
        name.startswith(wire.ANSWER_PREFIXES) and not name.startswith(wire.ANSWER_DENIED_PREFIXES)
    )


def timings(named: dict[bytes, bytes]) -> Timings:
    """The `Server-Timing` of a unary answer."""
    value = named.get(TIMING)
    return NO_TIMINGS if value is None else decode_timings(value)


def output_tokens(body: bytes) -> int | None:
    """What a unary answer's `usage` says it generated."""
    start = len(body) - USAGE_TAIL
    found = COMPLETION_TOKENS.findall(body, start if start > 0 else 0)
    return int(found[-1]) if found else None


class Events:
    """An event stream on its way through: cuts it at event ends, and notes what it tells about itself."""

    __slots__ = ("_counted", "_reported", "_rest", "done", "report", "timings")

    def __init__(self) -> None:
        self._rest = b""
        self.timings = NO_TIMINGS
        self.report: bytes | None = None
        """What the worker said of its load at the end."""
        self.done = False
        """Whether `[DONE]` went through."""
        self._counted = 0
        self._reported: int | None = None

    def __repr__(self) -> str:
        return f"<Events {self._counted}{' done' if self.done else ''} rest {len(self._rest)}>"

    @property
    def output_tokens(self) -> int:
        """What the stream's usage said, else its events: engines send one per token."""
        return self._counted if self._reported is None else self._reported

    def feed(self, data: bytes) -> bytes:
        """The whole events that are complete now. Raises OversizeError when one grows beyond all reason."""
        if self._rest:
            data = self._rest + data
        if data.endswith(wire.LF_LF):
            self._rest = b""
            whole = data
        else:
            end = _last_end(data)
            whole, self._rest = data[:end], data[end:]
            if len(self._rest) > MAX_EVENT:
                raise OversizeError("event too large")
        return self._note(whole) if whole else whole

    def finish(self) -> bytes:
        """What stands after the last event end, when the worker ended the stream cleanly."""
        rest, self._rest = self._rest, b""
        return self._note(rest) if rest else rest

    def _note(self, events: bytes) -> bytes:
        """Read what concerns us; what of it is for the client."""
        # Only at line starts: what a model writes inside an event may look like any of these.
        self._counted += (
            events.startswith(wire.DATA) + events.count(b"\n" + wire.DATA) + events.count(b"\r" + wire.DATA)
        )
        if any(_line(events, done) >= 0 for done in wire.DONES):
            self.done = True
            self._counted -= 1
        if b"_tokens" in events:
            found = COMPLETION_TOKENS.findall(events)
            self._reported = int(found[-1]) if found else self._reported
        if b"\n:" in events or b"\r:" in events or events.startswith(b":"):
            events = self._commented(events)
        return events

    def _commented(self, events: bytes) -> bytes:
        """Read the worker's comments. The one on its load was asked for by us and is not for the client."""
        at = _line(events, TIMING_COMMENT)
        if at >= 0:
            self.timings = decode_timings(events[at + len(TIMING_COMMENT) :].splitlines()[0])
        at = _line(events, REPORT_COMMENT)
        end = events.find(wire.LF_LF, at)
        if at < 0 or end < 0:
            return events
        before, line = events[:at], events[at:end]
        if (before and not before.endswith(wire.EVENT_ENDS)) or b"\n" in line:
            return events  # part of an event that says more
        self.report = line.removeprefix(REPORT_COMMENT)
        return before + events[end + len(wire.LF_LF) :]


def _line(events: bytes, start: bytes) -> int:
    """Where the last line that begins so begins; -1 without one."""
    at = max(events.rfind(b"\n" + start), events.rfind(b"\r" + start))
    if at >= 0:
        return at + 1
    return 0 if events.startswith(start) else -1


def _last_end(data: bytes) -> int:
    """Where the last whole event ends: after an empty line, whichever line ends are used (WHATWG, section 9.2.5)."""
    return max(_after(data, wire.LF_LF), _after(data, wire.LF_CR_LF), _after(data, wire.CR_CR))


def _after(data: bytes, ending: bytes) -> int:
    at = data.rfind(ending)
    return at + len(ending) if at >= 0 else 0


def decision(dispatch: Dispatch, outcome: Outcome | None, cost: float, routed: float, held: float = 0.0) -> bytes:
    """The decision's fields for a client that asked: where it went and why, predicted and, where known, real.

    `routed` is the gateway's own time, `held` how long it waited here for room. Without an outcome (a stream begins
    before it ends) the parts are predicted.
    """
    node, eta = dispatch.node, dispatch.eta
    worker = node.worker
    queue, prefill, decode, net = eta.wait, eta.prefill, eta.decode, eta.network
    if outcome is not None and outcome.prefill is not None and outcome.total is not None:
        queue, prefill, decode = outcome.queue or 0.0, outcome.prefill, outcome.decode or 0.0
        net = max(0.0, outcome.total - queue - prefill - decode)
    parts = [("route", routed), ("net", net), ("queue", queue), ("prefill", prefill), ("decode", decode)]
    if held:
        parts.insert(0, ("hold", held))
    timing = ", ".join(f"{name};dur={seconds * 1e3:.2f}" for name, seconds in parts)
    return b"".join(
        (
            wire.ROUTE_NODE, worker.id.encode(),
            wire.ROUTE_REGION, worker.region.encode(),
            wire.ROUTE_VARIANT, node.endpoint.variant.encode(),
            wire.ROUTE_COST, b"%.3g" % cost,
            wire.ROUTE_ETA, b"%.1f" % (eta.total * 1e3),
            wire.ROUTE_ATTEMPTS, b"%d" % dispatch.attempt,
            wire.ROUTE_REASON, dispatch.status.value.encode(),
            wire.SERVER_TIMING, timing.encode(),
        )
    )  # fmt: skip
