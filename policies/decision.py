"""The decision log's records: what a gateway writes of its decisions and a what-if reads. Only here are its keys.

A log is JSON lines, and every file of it stands alone: one `Opened`, one `Surveyed` (as soon as there are workers),
then a `Decided` per sampled request, with a new `Surveyed` now and then. Nothing in it comes from a body, a prompt or
a key. Seconds (to the microsecond) and US dollars; absolute times are Unix seconds; what is absent has its default. A
reader ignores keys it does not know and reads every schema up to `SCHEMA`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from policies.reason import Reason
from policies.records import Curve, Price, Worker
from policies.request import ANY, INFINITE, Dispatch, Outcome, Request, Shed, kept

SCHEMA: Final = 1
OK: Final = "ok"
CLIENT_ERROR: Final = "client_error"
"""What an attempt came to beside the labels of `Reason`."""


class _Line(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="t"):
    """One line of the log."""


class Opened(_Line, frozen=True, tag="log"):
    """Who writes, and which share of its requests."""

    at: float
    gateway: str = msgspec.field(name="gw")
    region: str = msgspec.field(name="r")
    sample: float
    """A request stands for 1/sample of them."""
    schema: int = msgspec.field(name="v", default=SCHEMA)


class Served(msgspec.Struct, frozen=True, omit_defaults=True):
    """An endpoint that workers of one group serve."""

    model: str = msgspec.field(name="m")
    variant: str = msgspec.field(name="va")
    curve: Curve = msgspec.field(name="cu")
    slots: int = msgspec.field(name="b", default=1)
    quality: float = msgspec.field(name="q", default=1.0)
    speed: float = msgspec.field(name="x", default=1.0)
    """How much longer than by its curve it takes to the first token (or at all, without tokens), as this gateway has
    learned it (mean over the group)."""
    pace: float = msgspec.field(name="xd", default=1.0)
    """Likewise of the tokens after it."""
    charge: float = msgspec.field(name="xc", default=1.0)
    """Accelerator seconds over what `cost.accelerator_seconds` expects."""


class Group(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Workers whose records differ in name and place only: what a fleet of thousands comes down to."""

    mark: str = msgspec.field(name="id", default="")
    """`mark` of any of them."""
    region: str = msgspec.field(name="r")
    count: int = msgspec.field(name="n")
    accelerator: str = msgspec.field(name="acc", default="")
    cloud: str = msgspec.field(name="cl", default="")
    power_watts: float = msgspec.field(name="w", default=0.0)
    price: Price = msgspec.field(name="usd")
    egress_usd_per_gb: float = msgspec.field(name="eg", default=0.0)
    serves: tuple[Served, ...] = msgspec.field(name="s")


class Surveyed(_Line, frozen=True, tag="fleet"):
    """The fleet as this gateway knows it: what there is, how far away, and how much was asked since the last survey."""

    at: float
    groups: tuple[Group, ...] = msgspec.field(name="g", default=())
    round_trips: dict[str, tuple[float, float]] = msgspec.field(name="rtt", default={})
    """Region -> mean and deviation, as this gateway's probes measure them."""
    requests: int = msgspec.field(name="rq", default=0)
    """Requests decided since the last survey, logged or not."""


class Predicted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An `Eta`, part by part."""

    network: float
    wait: float
    prefill: float
    decode: float
    spread: float


class Actual(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What was observed; null where it was not. Counted from the attempt's start."""

    first_byte: float | None = None
    total: float | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    accelerator: float | None = None


class Attempted(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One dispatch and what came of it."""

    node: str = msgspec.field(name="k")
    """`worker/model:variant`"""
    region: str = msgspec.field(name="r")
    mark: str = msgspec.field(name="g", default="")
    """Of the group its worker belongs to."""
    promise: str = msgspec.field(name="p", default="feasible")
    """A `Status`."""
    started: float = msgspec.field(name="at", default=0.0)
    """After the request's arrival."""
    predicted: Predicted = msgspec.field(name="e")
    actual: Actual = msgspec.field(name="a", default=Actual())
    outcome: str = msgspec.field(name="o", default=OK)
    output_tokens: int | None = msgspec.field(name="out", default=None)
    reply_bytes: int = msgspec.field(name="b", default=0)
    expected_cost: float = msgspec.field(name="ec", default=0.0)
    cost: float = msgspec.field(name="c", default=0.0)


class Decided(_Line, frozen=True, tag="d"):
    """One client request, when it had its ending."""

    at: float
    """When its first byte came."""
    model: str = msgspec.field(name="m")
    policy: str = msgspec.field(name="po", default="")
    tenant: str = msgspec.field(name="tn", default="")
    """As the log's `tenants` has it: hashed, plain or left out."""
    stream: bool = msgspec.field(name="s", default=False)
    prompt_tokens: float = msgspec.field(name="in", default=0.0)
    output_tokens: float = msgspec.field(name="out", default=0.0)
    """As expected when it was routed; what came is in the attempts."""
    items: int = msgspec.field(name="n", default=1)
    first_token: float | None = msgspec.field(name="df", default=None)
    """Seconds granted until the first token; null without end."""
    total: float | None = msgspec.field(name="d", default=None)
    token_interval: float | None = msgspec.field(name="dt", default=None)
    probability: float = msgspec.field(name="pr", default=0.95)
    quality: float = msgspec.field(name="q", default=0.0)
    min_quality: float = msgspec.field(name="qm", default=0.0)
    when_infeasible: tuple[str, ...] = msgspec.field(name="wi", default=("degrade", "best_effort"))
    tied: bool = msgspec.field(name="ti", default=False)
    """Whether it could not use every node: regions, providers, a price cap. Which is not told."""
    attempts: tuple[Attempted, ...] = msgspec.field(name="a", default=())
    refused: str = msgspec.field(name="no", default="")
    """A `Reason`, when the client got an error of ours."""
    status: int = msgspec.field(name="st", default=200)
    took: float | None = msgspec.field(name="tk", default=None)
    """From first byte in to last byte out."""
    in_deadline: bool = msgspec.field(name="ok", default=False)
    """What `request.kept` says of the last attempt."""

    @property
    def cost(self) -> float:
        """Of all its attempts."""
        return sum(attempt.cost for attempt in self.attempts)


Line = Opened | Surveyed | Decided

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    """With its newline."""
    return _encoder.encode(line) + b"\n"


def decode(raw: bytes) -> Line:
    """Raises msgspec.MsgspecError, whose text names the key."""
    return _decoder.decode(raw)


def mark(worker: Worker) -> str:
    """What all workers have in common whose records differ in name and place only: eight hexadecimal digits."""
    alike = msgspec.structs.replace(worker, id="", boot="", seq=0, address="", zone="")
    return f"{zlib.crc32(_encoder.encode(alike)):08x}"


def decided(
    request: Request,
    attempts: Iterable[tuple[Dispatch, Outcome | None, float]],
    *,
    at: float,
    finished: float | None,
    tenant: str,
    shed: Shed | None,
    status: int,
    marks: Callable[[Worker], str] = mark,
) -> Decided:
    """The record of a request; `attempts` are dispatch, outcome and cost in order, `at` its arrival in Unix time.

    `marks` is `mark`, or one that remembers.
    """
    tried = list(attempts)
    arrived = request.arrived
    return Decided(
        at=_micro(at),
        model=request.model,
        policy=request.policy,
        tenant=tenant,
        stream=request.stream,
        prompt_tokens=round(request.prompt_tokens, 1),
        output_tokens=round(request.output_tokens, 1),
        items=request.items,
        first_token=_granted(request.first_token_deadline - arrived),
        total=_granted(request.deadline - arrived),
        token_interval=_granted(request.token_interval),
        probability=request.probability,
        quality=request.quality,
        min_quality=request.min_quality,
        when_infeasible=tuple(step.value for step in request.when_infeasible),
        tied=bool(request.order) or request.selection != ANY or request.max_cost < INFINITE,
        attempts=tuple(_attempted(arrived, marks, *one) for one in tried),
        refused="" if shed is None else shed.reason.label,
        status=status,
        took=None if finished is None else _micro(finished - arrived),
        in_deadline=shed is None and bool(tried) and kept(*tried[-1][:2]),
    )


def _attempted(
    arrived: float, marks: Callable[[Worker], str], dispatch: Dispatch, outcome: Outcome | None, cost: float
) -> Attempted:
    eta, node = dispatch.eta, dispatch.node
    seen = outcome or Outcome(reason=Reason.INTERNAL)
    return Attempted(
        node=node.id,
        region=node.region,
        mark=marks(node.worker),
        promise=dispatch.status.value,
        started=_micro(dispatch.at - arrived),
        predicted=Predicted(*map(_micro, (eta.network, eta.wait, eta.prefill, eta.decode, eta.spread))),
        actual=Actual(
            *map(_seen, (seen.first_byte, seen.total, seen.queue, seen.prefill, seen.decode, seen.accelerator))
        ),
        outcome=label(seen),
        output_tokens=seen.output_tokens,
        reply_bytes=seen.reply_bytes,
        expected_cost=float(f"{dispatch.cost:.6g}"),
        cost=float(f"{cost:.6g}"),
    )


def label(outcome: Outcome) -> str:
    """What an attempt came to, in one word."""
    if outcome.client_error:
        return CLIENT_ERROR
    return OK if outcome.reason is None else outcome.reason.label


def _granted(seconds: float) -> float | None:
    return _micro(seconds) if math.isfinite(seconds) else None


def _seen(seconds: float | None) -> float | None:
    return None if seconds is None else _micro(seconds)


def _micro(seconds: float) -> float:
    """To the microsecond: nothing here is measured more finely, and a line is half as long."""
    return round(seconds, 6)
