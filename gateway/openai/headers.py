"""THE header table: every request header that routing reads, its unit, and the field of `Asked` it fills.

`parse` is on the path of every request: one dict lookup per header that came, and work only for those known here.
What a name means, and which of two names for one thing wins, is decided by its row and its place in `TABLE`.
A header sent twice, or one that does not parse, refuses the request: guessing a deadline would be worse.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from policies.estimate import CLASSES
from policies.reason import Reason
from policies.request import INFINITE, Infeasible, Shed

MAX_SECONDS = 86_400.0
"""Longer durations are read as a day: no inference takes longer, and timers and float arithmetic stay sane."""
MAX_PATTERNS = 32
"""Region patterns in one header; more cost matching time and say nothing more."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's headers ask for. Durations are seconds; `None` and "" mean that nothing was asked."""

    deadline: float | None = None
    """Until the last byte; infinite when the client says "no timeout"."""
    ttft: float | None = None
    tpot: float | None = None
    max_wait: float | None = None
    when_infeasible: Infeasible | None = None
    probability: float | None = None
    """One of `CLASSES`."""
    max_cost: float | None = None
    """US dollars."""
    min_quality: float | None = None
    regions: tuple[str, ...] = ()
    priority: str = ""
    affinity: str = ""
    request_id: str | None = None
    traceparent: bytes = b""
    explain: bool = False
    retry_count: int = 0
    """How often the client's library has sent this request before."""


_DECIMAL = re.compile(rb"[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,4})?")
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PATTERNS = re.compile(rb"[A-Za-z0-9._*?-]{1,64}(?:[ \t]*,[ \t]*[A-Za-z0-9._*?-]{1,64})*")
_CLASS = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_SESSION = re.compile(rb"[!-~]{1,256}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:=+/@~-]{1,128}")
"""Wide enough for UUIDs and for the ids of cloud load balancers; nothing that needs quoting in a log or a header."""
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _decimal(value: bytes) -> float | None:
    """A plain non-negative decimal. `float` alone would take `1_0`, `nan`, `infinity` and surrounding space."""
    if value.isdigit() and len(value) < 16:  # the usual case, at half the cost
        return int(value)
    return float(value) if _DECIMAL.fullmatch(value) else None


def _milliseconds(value: bytes) -> float | None:
    number = _decimal(value)
    return None if number is None else min(number / 1e3, MAX_SECONDS)


def _seconds(value: bytes) -> float | None:
    number = _decimal(value)
    return None if number is None else min(number, MAX_SECONDS)


def _envoy_milliseconds(value: bytes) -> float | None:
    """Envoy's router reads 0 as "no timeout" (docs: HTTP router filter, x-envoy-upstream-rq-timeout-ms)."""
    seconds = _milliseconds(value)
    return INFINITE if seconds == 0 else seconds


def _grpc_timeout(value: bytes) -> float | None:
    """`TimeoutValue TimeoutUnit` of the gRPC over HTTP/2 protocol, such as `250m`."""
    found = _GRPC_TIMEOUT.fullmatch(value)
    return None if found is None else min(int(found[1]) * _GRPC_UNITS[found[2]], MAX_SECONDS)


def _infeasible(value: bytes) -> Infeasible | None:
    return _INFEASIBLE.get(value)


_INFEASIBLE = {member.value.encode(): member for member in Infeasible}


def _probability(value: bytes) -> float | None:
    """Snap up to the next class; above the highest, the highest."""
    number = _decimal(value)
    if number is None or number > 1:
        return None
    return next((known for known in CLASSES if number <= known), CLASSES[-1])


def _quality(value: bytes) -> float | None:
    """Relative to the reference variant; a variant may score above it, so up to 2 (policies/records.py)."""
    number = _decimal(value)
    return number if number is not None and number <= 2 else None


def _dollars(value: bytes) -> float | None:
    number = _decimal(value)
    return number if number is not None and math.isfinite(number) else None


def _patterns(value: bytes) -> tuple[str, ...] | None:
    if not _PATTERNS.fullmatch(value):
        return None
    patterns = tuple(part.strip() for part in value.decode().split(","))
    return patterns if len(patterns) <= MAX_PATTERNS else None


def _text(grammar: re.Pattern[bytes]) -> Callable[[bytes], str | None]:
    def read(value: bytes) -> str | None:
        return value.decode() if grammar.fullmatch(value) else None

    return read


def _traceparent(value: bytes) -> bytes:
    """W3C Trace Context: one that does not parse is ignored, never refused."""
    return value if _TRACEPARENT.fullmatch(value) else b""


def _flag(value: bytes) -> bool | None:
    return {b"1": True, b"true": True, b"0": False, b"false": False}.get(value.lower())


def _count(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= 4 else None


class Row(NamedTuple):
    """One name: `parse` gives the field's value, or None when the value is malformed."""

    name: bytes
    field: str
    parse: Callable[[bytes], object]
    expects: str


_MS = "milliseconds, a decimal number from 0 such as 250"
_S = "seconds, a decimal number from 0 such as 1.5"

TABLE: tuple[Row, ...] = (
    # Among names of one field the first in this table wins, whatever their order in the request.
    Row(b"x-deadline-ms", "deadline", _milliseconds, _MS),
    Row(b"x-request-slo-ms", "deadline", _milliseconds, _MS),
    Row(b"x-envoy-upstream-rq-timeout-ms", "deadline", _envoy_milliseconds, _MS + "; 0 means no timeout"),
    Row(b"grpc-timeout", "deadline", _grpc_timeout, "up to eight digits and a unit of H, M, S, m, u, n, such as 250m"),
    Row(b"x-litellm-timeout", "deadline", _seconds, _S),
    Row(b"x-slo-ttft-ms", "ttft", _milliseconds, _MS),
    Row(b"x-llm-d-slo-ttft-ms", "ttft", _milliseconds, _MS),
    Row(b"x-slo-tpot-ms", "tpot", _milliseconds, _MS),
    Row(b"x-llm-d-slo-tpot-ms", "tpot", _milliseconds, _MS),
    Row(b"x-max-wait-ms", "max_wait", _milliseconds, _MS),
    Row(b"x-deadline-policy", "when_infeasible", _infeasible, "one of degrade, hold, best_effort, reject"),
    Row(b"x-deadline-probability", "probability", _probability, "a number from 0 to 1 such as 0.95"),
    Row(b"x-max-cost-usd", "max_cost", _dollars, "US dollars, a decimal number from 0 such as 0.002"),
    Row(b"x-min-quality", "min_quality", _quality, "a number from 0 to 2, relative to the reference variant"),
    Row(b"x-allow-regions", "regions", _patterns, f"up to {MAX_PATTERNS} regions or patterns, as in eu-*, us-east1"),
    Row(b"x-priority", "priority", _text(_CLASS), "a class name of letters, digits, - and _"),
    Row(b"x-session-id", "affinity", _text(_SESSION), "up to 256 visible ASCII characters"),
    Row(b"x-request-id", "request_id", _text(_REQUEST_ID), "up to 128 letters, digits and any of ._:=+/@~-"),
    Row(b"traceparent", "traceparent", _traceparent, "a W3C traceparent"),
    Row(b"x-route-explain", "explain", _flag, "1 or 0"),
    Row(b"x-stainless-retry-count", "retry_count", _count, "a whole number from 0 to 9999"),
)


class _Entry(NamedTuple):
    """A row, made ready for the loop: each name is one bit, so that repeats and precedence are one `&` each."""

    field: str
    parse: Callable[[bytes], object]
    bit: int
    better: int
    """The bits of the names that win over this one."""
    row: Row


def _entry(index: int, row: Row) -> _Entry:
    better = sum(1 << rank for rank, other in enumerate(TABLE[:index]) if other.field == row.field)
    return _Entry(row.field, row.parse, 1 << index, better, row)


_ENTRIES = {row.name: _entry(index, row) for index, row in enumerate(TABLE)}
NOTHING = Asked()


def parse(headers: Sequence[tuple[bytes, bytes]]) -> Asked | Shed:
    """Read what the headers ask for. Names must be lower-case and values free of surrounding space."""
    seen = 0
    found: dict[str, object] = {}
    find = _ENTRIES.get
    for name, value in headers:
        entry = find(name)
        if entry is None:
            continue
        field, read, bit, better, row = entry
        if seen & bit:
            return Shed(Reason.BAD_REQUEST, "This header may be sent once only.", row.name.decode())
        parsed = read(value)
        if parsed is None:
            return Shed(Reason.BAD_REQUEST, f"This header takes {row.expects}.", row.name.decode())
        if not seen & better:
            found[field] = parsed
        seen |= bit
    return Asked(**found) if found else NOTHING  # type: ignore[arg-type]  # each row's parser makes its field's type


def make_id(rng: random.Random) -> str:
    """A request id for a client that sent none: 128 random bits in hexadecimal."""
    return rng.getrandbits(128).to_bytes(16, "big").hex()
