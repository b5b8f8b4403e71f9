"""Load reports on answers: what a worker's answer says of its load, in a header or an SSE comment.

The form is ORCA's (xds.data.orca.v3.OrcaLoadReport, gRPC A51): a gateway asks with `endpoint-load-metrics-format`, the
answer says `endpoint-load-metrics: JSON {...}` or `TEXT name=value, ...`, as vLLM and Triton do. This file is the only
one that knows these bytes. Our own workers use vLLM's names where it has any, so that other routers read them too;
what is ours beside them is one more named metric each, all numbers, because ORCA knows no others.
"""

from __future__ import annotations

import math
import zlib
from typing import Annotated

import msgspec
from msgspec import Meta

from policies.records import Load, Rejected, Seconds, Timings, Worker

REPORT_HEADER = "endpoint-load-metrics"
REPORT_FORMAT_HEADER = "endpoint-load-metrics-format"
REPORT_FORMAT = "JSON"
"""What our gateways ask for: msgspec reads it in a microsecond. (vLLM and Triton take either case.)"""
REPORT_COMMENT = b": load "
"""SSE comment line before `[DONE]` with the same value as of the end of a stream."""
MAX_REPORT_BYTES = 4096
"""A longer one is refused unread: ours has about 300, vLLM's 100."""

Figure = Annotated[float, Meta(ge=0, le=10_000_000)]
"""A `records.Count`, or a share; engines write counts as floats."""
Whole = Annotated[int, Meta(ge=0, le=2**53)]
"""What is exact in a double, which is all that ORCA has."""


class Report(msgspec.Struct, gc=False, frozen=True):
    """The named metrics we understand; `None` where the engine does not say."""

    waiting: Figure | None = msgspec.field(default=None, name="num_requests_waiting")
    running: Figure | None = msgspec.field(default=None, name="num_requests_running")
    kv_use: Figure = msgspec.field(default=0.0, name="kv_cache_usage_perc")
    backlog: Seconds | None = msgspec.field(default=None, name="backlog_seconds")
    tokens_waiting: Figure = 0.0
    arrived: Whole = 0
    draining: Figure = 0.0
    boot: Whole | None = None
    """`boot_mark` of the process that reports; with `seq`, what only our own workers say."""
    seq: Whole | None = None

    @property
    def ordered(self) -> bool:
        """Whether it can be told from an older one."""
        return self.seq is not None and self.boot is not None

    def load(self, worker: Worker, known: Load | None) -> Load | None:
        """The load record it amounts to for `worker`, whose last load is `known`; None if it tells nothing of it.

        A foreign engine has neither boot nor sequence. Its report goes under the record's boot and the sequence last
        heard, so that its sidecar's next heartbeat is newer still; what it does not say stays as known.
        """
        if self.waiting is None:
            return None
        if self.seq is not None and self.boot is not None:
            if self.boot != boot_mark(worker.boot):
                return None  # another process at this address: its own record tells of it
            return Load(
                worker=worker.id, boot=worker.boot, seq=self.seq, waiting=int(self.waiting),
                running=None if self.running is None else int(self.running), backlog=self.backlog,
                tokens_waiting=int(self.tokens_waiting), kv_use=min(self.kv_use, 1.0), draining=self.draining > 0.0,
                arrived=self.arrived,
            )  # fmt: skip
        if known is None or known.boot != worker.boot:
            known = Load(worker=worker.id, boot=worker.boot, seq=0)
        return Load(
            worker=worker.id, boot=worker.boot, seq=known.seq, waiting=int(self.waiting),
            running=known.running if self.running is None else int(self.running), kv_use=min(self.kv_use, 1.0),
            draining=known.draining, arrived=known.arrived,
        )  # fmt: skip


class _Orca(msgspec.Struct, gc=False, frozen=True):
    """An OrcaLoadReport; what else it says is of no use here."""

    named_metrics: Report = Report()


_decode = msgspec.json.Decoder(_Orca).decode
_NAMED = "named_metrics."


def boot_mark(boot: str) -> int:
    """A boot id as a number. Two boots of one worker are told apart, which takes no more than 32 bits."""
    return zlib.crc32(boot.encode())


def encode_report(load: Load, utilization: float, rate: float) -> str:
    """A header value. `utilization` is requests here per slot (above 1: some wait), `rate` requests per second."""
    backlog = "" if load.backlog is None else f'"backlog_seconds":{load.backlog:.6g},'
    return (
        f'JSON {{"application_utilization":{utilization:.4g},"rps_fractional":{rate:.4g},"named_metrics":{{'
        f'"num_requests_waiting":{load.waiting or 0},"num_requests_running":{load.running or 0},'
        f'"kv_cache_usage_perc":{load.kv_use:.4g},{backlog}"tokens_waiting":{load.tokens_waiting},'
        f'"arrived":{load.arrived},"draining":{load.draining:d},"boot":{boot_mark(load.boot)},"seq":{load.seq}}}}}'
    )


def with_cost(report: str, spent: Timings) -> str:
    """A report of ours that says what its own request cost, too: ORCA's `request_cost`, which routers of other makes
    read; our gateways take the same from `Server-Timing`."""
    figures = {
        "queue_seconds": spent.queue,
        "compute_seconds": None if spent.prefill is None else spent.prefill + (spent.decode or 0.0),
        "accelerator_seconds": spent.accel,
        "batch_items": spent.batch,
    }
    said = ",".join(f'"{name}":{figure:.6g}' for name, figure in figures.items() if figure is not None)
    return f'{report[:-1]},"request_cost":{{{said}}}}}'


def decode_report(value: bytes) -> Report | Rejected:
    """Read what is understood of a report; unknown names are left out."""
    if len(value) > MAX_REPORT_BYTES:
        return Rejected("size", f"{len(value)} bytes")
    try:
        if value.startswith(b"JSON "):
            return _decode(value[5:]).named_metrics
        if value.startswith(b"{"):  # vLLM's Rust frontend leaves the prefix out
            return _decode(value).named_metrics
        if value.startswith(b"BIN "):
            return Rejected("format", "BIN was not asked for")
        return _read_text(value.removeprefix(b"TEXT ").decode("ascii"))
    except (msgspec.MsgspecError, ValueError) as error:  # UnicodeError is one
        return Rejected("parse", str(error))


def _read_text(text: str) -> Report:
    """`name=value, ...`; Envoy writes a colon. Raises ValueError or ValidationError."""
    figures: dict[str, float] = {}
    for part in text.split(","):
        name, found, number = part.strip().replace(":", "=", 1).partition("=")
        if not found:
            raise ValueError(f"{part!r:.80} is no name=value")
        if name.startswith(_NAMED):
            figures[name.removeprefix(_NAMED)] = figure = float(number)
            if not math.isfinite(figure):
                raise ValueError(f"{part!r:.80} is no number")
    return msgspec.convert(figures, Report)
