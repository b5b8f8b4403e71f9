"""The recent decisions, by request id: what was predicted and what came of it.

A bounded memory for `GET /admin/explain/REQUEST_ID`, and the seam of a decision log: every finished trace is also
handed to the sink, whose faults cost a count, never a request. Nothing of a request's body is in a trace.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec

from policies.decision import label
from policies.reason import TABLE
from policies.request import Dispatch, Eta, Outcome, Request, Shed, kept

CAPACITY = 4096
"""About 10 MB of traces; at 100 requests a second the last 40 seconds."""


class Tried(msgspec.Struct, gc=False, frozen=True):
    """One attempt, as it was when it ended: prices that change later do not change what it cost."""

    dispatch: Dispatch
    outcome: Outcome | None = None
    """`None` while it is open."""
    cost: float = 0.0
    """What it really cost, in US dollars."""


class Trace(msgspec.Struct, gc=False):
    """One client request from its first byte to its end, as the exchange saw it."""

    request_id: str
    request: Request | None = None
    """`None` when it was refused before it could be understood."""
    attempts: Sequence[Tried] = ()
    """In the order they ended."""
    shed: Shed | None = None
    status: int = 0
    """The HTTP status the client got; 0 while unanswered."""
    finished: float | None = None
    """When its last byte was written, on the monotonic clock."""
    wall: float = 0.0
    """Unix time when the ring took it; the only wall-clock figure."""
    held: float = 0.0
    """Seconds it was held here for want of room."""


Sink = Callable[[Trace], None]


class Ring:
    """The last `capacity` traces. Of a repeated request id the newest is found; who looks for one looks at all."""

    def __init__(
        self,
        capacity: int = CAPACITY,
        sink: Sink | None = None,
        dropped: Callable[[Exception], None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._traces: deque[Trace] = deque(maxlen=capacity)
        self._sink = sink
        self._dropped = dropped
        self._wall = wall

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, trace: Trace) -> None:
        """Keep a finished trace and hand it to the sink."""
        trace.wall = self._wall()
        self._traces.append(trace)
        if self._sink is not None:
            try:
                self._sink(trace)
            except Exception as error:  # a full disk must not cost the request
                if self._dropped is not None:
                    self._dropped(error)

    def find(self, request_id: str) -> Trace | None:
        return next((trace for trace in reversed(self._traces) if trace.request_id == request_id), None)

    def recent(self, n: int) -> list[Trace]:
        """The newest `n`, newest first."""
        return list(islice(reversed(self._traces), n))


def encode(trace: Trace) -> dict[str, Any]:
    """A trace for people and programs: JSON-ready, predicted against actual for every attempt, in milliseconds."""
    told: dict[str, Any] = {
        "request_id": trace.request_id,
        "at": datetime.fromtimestamp(trace.wall, UTC).isoformat(timespec="milliseconds"),
        "status": trace.status,
    }
    request = trace.request
    if request is not None:
        last = trace.attempts[-1:]
        took = None if trace.finished is None else trace.finished - request.arrived
        told |= {
            "model": request.model,
            "protocol": "grpc" if request.selection.grpc else "http",
            "policy": request.policy,
            "tenant": request.tenant,
            "stream": request.stream,
            "deadline_ms": _ms(request.deadline - request.arrived),
            "first_token_deadline_ms": _ms(request.first_token_deadline - request.arrived),
            "probability": request.probability,
            "took_ms": _ms(took),
            "held_ms": _ms(trace.held),
            "in_deadline": trace.shed is None and bool(last) and kept(last[0].dispatch, last[0].outcome),
        }
    if trace.shed is not None:
        meaning = TABLE[trace.shed.reason]
        told["refused"] = {
            "reason": trace.shed.reason.label,
            "code": meaning.code,
            "detail": trace.shed.detail or meaning.message,
            "param": trace.shed.param,
        }
    told["attempts"] = [_attempt(tried) for tried in trace.attempts]
    return told


def _attempt(tried: Tried) -> dict[str, Any]:
    dispatch, outcome = tried.dispatch, tried.outcome
    node = dispatch.node
    return {
        "attempt": dispatch.attempt,
        "node": node.id,
        "region": node.region,
        "variant": node.endpoint.variant,
        "promise": dispatch.status.value,
        "outcome": "pending" if outcome is None else label(outcome),
        "predicted": _predicted(dispatch.eta) | {"cost_usd": dispatch.cost},
        "actual": None if outcome is None else _actual(outcome) | {"cost_usd": tried.cost},
    }


def _predicted(eta: Eta) -> dict[str, float | None]:
    return {
        "network_ms": _ms(eta.network),
        "queue_ms": _ms(eta.wait),
        "prefill_ms": _ms(eta.prefill),
        "decode_ms": _ms(eta.decode),
        "total_ms": _ms(eta.total),
        "spread_ms": _ms(eta.spread),
    }


def _actual(outcome: Outcome) -> dict[str, float | None]:
    """Network is what is left of the total once the worker's own times are taken off, when it reported them."""
    network = None
    if outcome.total is not None and outcome.prefill is not None:
        inside = (outcome.queue or 0.0) + outcome.prefill + (outcome.decode or 0.0)
        network = max(0.0, outcome.total - inside)
    return {
        "network_ms": _ms(network),
        "queue_ms": _ms(outcome.queue),
        "prefill_ms": _ms(outcome.prefill),
        "decode_ms": _ms(outcome.decode),
        "first_byte_ms": _ms(outcome.first_byte),
        "total_ms": _ms(outcome.total),
        "accelerator_ms": _ms(outcome.accelerator),
    }


def _ms(seconds: float | None) -> float | None:
    """Milliseconds for people; an absent or infinite time is null in JSON."""
    return None if seconds is None or not math.isfinite(seconds) else round(seconds * 1e3, 3)
