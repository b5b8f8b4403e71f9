"""The registry's schema: the only place that knows the bytes workers write and gateways read.

A worker has one static record (signed, rarely written) and one load record (written every heartbeat; its presence
is the lease). Anything that does not parse, is out of range, unsigned or out of scope comes back as `Rejected`, a
value to count: one bad record never costs the others. The wire names that workers and gateways share beside the
registry (headers, the timing format) stand at the end.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from policies.addresses import reaches

SCHEMA = 1
LEASE_SECONDS = 3.0
"""A load record expires after this; three missed heartbeats at one a second (faults.md section 5)."""
HEARTBEAT_SECONDS = 0.25
"""Default time between heartbeats; a write on change comes earlier."""
HEARTBEAT_READS_PER_SECOND = 2000
"""What one gateway process should have to read at most: workers slow down as the fleet grows beyond it."""
MAX_RECORD_BYTES = 65536
"""A record larger than this is refused unread; a worker with 100 endpoints needs about 30 KB."""
MAX_WORKERS = 20_000
"""Hard cap on workers one gateway admits, so that junk records cannot exhaust it."""

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z", max_length=128)]
Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=64)]
"""Ids stand inside Redis keys and ACL patterns, so no separators and no glob characters."""
Address = Annotated[str, Meta(pattern=r"\A(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}\Z", max_length=262)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]
Usd = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]
Total = Annotated[int, Meta(ge=0, le=2**62)]
"""What only grows, such as a counter since boot."""
Quality = Annotated[float, Meta(ge=0, le=2)]
"""A variant may score above its reference (distilled, fine-tuned), never absurdly so."""


class TensorSpec(msgspec.Struct, frozen=True):
    """An input or output of a tensor model, as the Open Inference Protocol describes it."""

    name: Annotated[str, Meta(max_length=128)]
    datatype: Annotated[str, Meta(max_length=16)]
    """`FP32`, `INT64`, ...: the protocol's names."""
    shape: Annotated[tuple[int, ...], Meta(max_length=16)]
    """-1 where any size goes; the first dimension is the batch."""


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an endpoint takes for a request, in seconds: `base + item*(items-1) + prefill*prompt + decode*output`.

    For tensor models `base` is one item alone and `item` each further one in the same batch. For text, `base` is the
    fixed cost, `prefill` the time per prompt token and `decode` the time per output token at batch 1. In company each
    output token takes `decode + decode_batch * others` instead.
    """

    base: Seconds
    item: Seconds = 0.0
    prefill: Seconds = 0.0
    decode: Seconds = 0.0
    decode_batch: Seconds = 0.0
    """Seconds per output token for each other request running at once; 0: unknown."""

    def seconds(self, prompt_tokens: float = 0.0, output_tokens: float = 0.0, items: int = 1) -> float:
        """Compute time of one request alone."""
        return self.base + self.item * (items - 1) + self.prefill * prompt_tokens + self.decode * output_tokens


class TokenPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="token", tag_field="mode"):
    """A price list, as third-party APIs bill: US dollars per million tokens, plus a fee per request."""

    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    request_usd: Usd = 0.0


class MarginalPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="marginal", tag_field="mode"):
    """Price per hour of the accelerator, of which a request is charged the seconds it uses."""

    usd_per_hour: Usd


class ReservedPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="reserved", tag_field="mode"):
    """Price per hour that is paid whether the accelerator works or not: a request costs only what its capacity is worth
    to others (cost.py)."""

    usd_per_hour: Usd


Price = TokenPrice | MarginalPrice | ReservedPrice


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One model variant served by a worker. Unknown fields are ignored, so that old gateways read new workers."""

    model: Name
    """The name clients ask for."""
    variant: Name
    quality: Quality
    """Task metric divided by the reference variant's on the same held-out data."""
    served_name: str = ""
    """The name the engine itself uses, when it is not `model`."""
    task: Id = "text"
    """`text`, `embedding`, `classification`, ...: shown by GET /v1/models, not routed on."""
    curve: Curve
    max_batch: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Requests the engine works on at once; a request waits only when all of these are taken."""
    agreement: Quality | None = None
    """Share of held-out answers equal to the reference's; a separate figure from quality."""
    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=64)] = ()
    """Of a tensor model, where it is known: what metadata says."""
    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=64)] = ()


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's static record: one process, one address, one accelerator."""

    id: Id
    boot: Id
    """New at every start of the process."""
    seq: Annotated[int, Meta(ge=0, le=2**62)]
    """Grows with every write over all boots (workers use wall-clock milliseconds); older ones are ignored."""
    address: Address
    grpc_address: Address | None = None
    """Where it also speaks the Open Inference Protocol over gRPC: requests that came by gRPC go there."""
    region: Id
    zone: str = ""
    cloud: str = ""
    accelerator: Annotated[str, Meta(max_length=128)] = ""
    """Free text: a GPU, TPU, ASIC or CPU by its name."""
    power_watts: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """What the accelerator draws at work, and all that works for it; 0: unknown."""
    carbon_g_per_kwh: Annotated[float, Meta(ge=0, le=5000)] | None = None
    """Grams of CO2 per kilowatt-hour of its electricity; None: as the gateway has it for the region."""
    price: Price
    egress_usd_per_gb: Usd = 0.0
    engine: Id = "isochrone"
    health_path: Annotated[str, Meta(pattern=r"\A/[!-~]*\Z", max_length=128)] = "/healthz"
    """What a probe GETs: answered from memory, without accelerator time."""
    variant_header: bool = True
    """Whether it picks the variant by `x-isochrone-variant`; foreign engines need `served_name` in the body."""
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=256)]


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker's accelerator is, as its driver tells; None: it does not."""

    memory: Share
    """Share of its memory that is taken, by whomever."""
    busy: Share | None = None
    """Share of the last second in which it computed."""
    watts: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    celsius: Annotated[float, Meta(ge=-300, le=1e4)] | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's load record: what waits and runs as of the moment it was written."""

    worker: Id
    boot: Id
    seq: Annotated[int, Meta(ge=0, le=2**62)]
    """Grows with every heartbeat of one boot."""
    waiting: Count | None = None
    """Requests in its queue; `None` when the engine cannot say (own in-flight counts serve)."""
    running: Count | None = None
    backlog: Seconds | None = None
    """Seconds until a request arriving now would start, as the worker itself estimates."""
    tokens_waiting: Count = 0
    kv_use: Share = 0.0
    draining: bool = False
    arrived: Total = 0
    """Requests accepted since boot: what one gateway did not send of them, others did. 0: it does not say."""
    device: DeviceLoad | None = None
    """Shown to people and metrics, not routed on."""


class Scope(msgspec.Struct, frozen=True):
    """What a signing key may register: shell-style patterns."""

    workers: tuple[str, ...] = ("*",)
    regions: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    addresses: tuple[str, ...] = ()
    """Where its workers may listen, as `addresses.py` reads it: CIDR ranges, each perhaps with a port. Host names
    need an empty list, which allows any address but link-local ones."""

    def covers(self, worker: Worker) -> bool:
        return (
            _matches(worker.id, self.workers)
            and _matches(worker.region, self.regions)
            and all(_matches(e.model, self.models) for e in worker.endpoints)
            and reaches(worker.address, self.addresses)
            and (worker.grpc_address is None or reaches(worker.grpc_address, self.addresses))
        )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a static record travels: the record's JSON as a string, and who signed exactly those bytes."""

    record: str
    key: str = ""
    sig: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """A record that is not used. `kind` is a metric label."""

    kind: str
    """size, parse, unsigned, signature, scope"""
    detail: str = ""


Sign = Callable[[bytes], bytes]
"""Message -> Ed25519 signature."""
Verify = Callable[[str, bytes, bytes], Scope | None]
"""(key id, message, signature) -> what that key may register, or None when the signature does not hold."""

_load_decoder = msgspec.json.Decoder(Load)
_worker_decoder = msgspec.json.Decoder(Worker)
_envelope_decoder = msgspec.json.Decoder(Envelope)


def seal_worker(worker: Worker, key_id: str = "", sign: Sign | None = None) -> bytes:
    """The bytes to store under `node_key`: signed when a key is given."""
    record = msgspec.json.encode(worker)
    if sign is None:
        return msgspec.json.encode(Envelope(record.decode()))
    return msgspec.json.encode(Envelope(record.decode(), key_id, base64.b64encode(sign(record)).decode()))


def open_worker(raw: bytes, verify: Verify | None) -> Worker | Rejected:
    """Read a static record. With `verify` None (no keys configured) unsigned records pass."""
    if len(raw) > MAX_RECORD_BYTES:
        return Rejected("size", f"{len(raw)} bytes")
    try:
        envelope = _envelope_decoder.decode(raw)
        record = envelope.record.encode()
        scope = Scope()
        if verify is not None:
            if not envelope.sig:
                return Rejected("unsigned")
            granted = verify(envelope.key, record, base64.b64decode(envelope.sig, validate=True))
            if granted is None:
                return Rejected("signature", f"key {envelope.key!r:.80}")
            scope = granted
        worker = _worker_decoder.decode(record)
    except (msgspec.MsgspecError, binascii.Error, UnicodeError) as error:
        return Rejected("parse", str(error))
    if not scope.covers(worker):
        where = f"{worker.id!r} at {worker.address:.80}"
        return Rejected("scope", f"key {envelope.key!r:.80} may not register worker {where}")
    return worker


def encode_load(load: Load) -> bytes:
    return msgspec.json.encode(load)


def decode_load(raw: bytes) -> Load | Rejected:
    if len(raw) > MAX_RECORD_BYTES:
        return Rejected("size", f"{len(raw)} bytes")
    try:
        return _load_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError) as error:
        return Rejected("parse", str(error))


# Keys. The braces are a Redis Cluster hash tag: all keys of a region live on one shard.
REGIONS = "iso:regions"
"""Set of the regions that have ever had a worker."""


def node_key(region: str, worker_id: str) -> str:
    return f"iso:{{{region}}}:node:{worker_id}"


def load_key(region: str, worker_id: str) -> str:
    return f"iso:{{{region}}}:load:{worker_id}"


def ids_key(region: str) -> str:
    """Set of worker ids; workers add themselves, only gateways remove."""
    return f"iso:{{{region}}}:ids"


def drains_key(region: str) -> str:
    """Set of worker ids an operator drains; only gateways write it."""
    return f"iso:{{{region}}}:drains"


def rtt_key(region: str, gateway: str) -> str:
    """One gateway's measured round trips to every region."""
    return f"iso:{{{region}}}:rtt:{gateway}"


def changes_channel(region: str, worker_id: str) -> str:
    """Where what concerns one worker is published as it is written: `b"node " + envelope`, `b"load " + load record`,
    `b"gone " + id`, `b"drain " + id`, `b"undrain " + id`. One channel per worker, so that an ACL can keep it to its
    own; gateways subscribe to the pattern `changes_channel("*", "*")`."""
    return f"iso:{{{region}}}:changes:{worker_id}"


NODE, LOAD, GONE, DRAIN, UNDRAIN = b"node ", b"load ", b"gone ", b"drain ", b"undrain "

# Wire names shared by workers and gateways beside the registry.
VARIANT_HEADER = "x-isochrone-variant"
EXECUTED_HEADER = "x-isochrone-executed"
"""`0` on a refusal says that nothing was executed, which makes a retry safe."""
DEADLINE_HEADER = "x-deadline-ms"
"""Remaining budget in milliseconds: durations cross the wire, so clock skew does not matter."""
FIRST_DEADLINE_HEADER = "x-slo-ttft-ms"
"""As much for the first token of a text."""
WAIT_HEADER = "x-isochrone-wait-ms"
"""Milliseconds in the worker's queue that the gateway counts on; absent where it promises nothing, and where no other
worker could take what this one refuses early."""
HEDGE_HEADER = "x-isochrone-hedge"
"""The same on both requests of a hedged pair."""
TIMING_HEADER = "server-timing"
TIMING_COMMENT = b": timing "
"""SSE comment line before `[DONE]` that carries what `Server-Timing` does on unary replies."""


class Timings(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """Where a worker spent a request's time, in seconds."""

    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    accel: float | None = None
    """Accelerator seconds charged to this request; a batch's time is split by item."""
    batch: int | None = None
    """Items in the engine call that answered it: for people and other tools, gateways don't read it."""

    def encode(self) -> str:
        """As a `Server-Timing` value (W3C: `name;dur=milliseconds`)."""
        parts = ((name, getattr(self, name)) for name in _TIMINGS.values())
        said = ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in parts if seconds is not None)
        return said if self.batch is None else f"{said}, batch;desc={self.batch}"


NO_TIMINGS = Timings()
_TIMINGS = {name.encode(): name for name in ("queue", "prefill", "decode", "accel")}
_MS = rb"((?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?)"
_USUAL_TIMINGS = re.compile(
    rb"queue;dur=%b, prefill;dur=%b, decode;dur=%b, accel;dur=%b(?:, batch;desc=[0-9]{1,9})?" % (_MS, _MS, _MS, _MS)
)
"""As our own workers write all four: numbers that JSON takes too, which reads four in the time of one `float`."""
_LONGEST_MS = 1e9
"""Eleven days; a longer time is nonsense."""


def decode_timings(value: bytes) -> Timings:
    """Read what is understood of a `Server-Timing` value; the rest, and nonsense, is left out."""
    usual = _USUAL_TIMINGS.fullmatch(value)
    if usual is not None:
        queue, prefill, decode, accel = msgspec.json.decode(b"[%b,%b,%b,%b]" % usual.groups())
        return Timings(queue=queue / 1e3, prefill=prefill / 1e3, decode=decode / 1e3, accel=accel / 1e3)
    found: dict[str, float] = {}
    for part in value.split(b","):
        name, _, milliseconds = part.strip().partition(b";dur=")
        if name in _TIMINGS:
            try:
                number = float(milliseconds)
            except ValueError:
                continue
            if 0.0 <= number <= _LONGEST_MS:
                found[_TIMINGS[name]] = number / 1e3
    if not found:
        return NO_TIMINGS
    return Timings(
        queue=found.get("queue"), prefill=found.get("prefill"), decode=found.get("decode"), accel=found.get("accel")
    )
