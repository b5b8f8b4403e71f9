"""The strict gate: what it does not understand exactly, it refuses, and nothing of it reaches a worker.

One function per rule of faults.md section 3.3, in its order; each returns the reason to refuse or None. llhttp (in its
strict mode) has refused malformed framing before; these rules refuse what is well formed and still ambiguous. Rule 9
(close after a framing error) is the client's connection, rules 10 and 11 are gateway/openai/{requests,errors}.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.geo import claimed
from policies.reason import Reason

if TYPE_CHECKING:
    from gateway.config import Limits
    from gateway.openai.headers import Asked
    from gateway.routes import Plan
    from policies.node import Node
    from policies.records import Endpoint
    from policies.request import Shed

Fields = list[tuple[bytes, bytes]]


class Head:
    """The head of one client request, as parsed; `named` holds the last value of every field name."""

    __slots__ = (
        "asked",
        "fields",
        "forwarded",
        "method",
        "modern",
        "named",
        "openings",
        "passed_on",
        "path",
        "plan",
        "target",
        "version",
    )

    def __init__(self, method: bytes, target: bytes, version: str, fields: Fields) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields = [(name.lower(), value.rstrip(b" \t")) for name, value in fields]
        """Names in lower case, in the order they came."""
        self.modern = version == "1.1"
        """Whether the client speaks HTTP/1.1, so that chunks and kept connections are understood."""
        self.named = named = dict(fields)
        self.forwarded = claimed(fields) if b"x-forwarded-for" in named or b"forwarded" in named else None
        """What proxies before us claim about the client's address; who believes it is geo.py's to decide."""
        # A head that a connection repeats is one object, which remembers what has been made of it.
        self.asked: Asked | Shed | None = None
        """What it asks for."""
        self.plan: Plan | None = None
        """What its last request's body did not decide."""
        self.passed_on: bytes | None = None
        """Its fields for a worker."""
        self.openings: dict[Node, tuple[Endpoint, bytes]] = {}
        """What a node's worker gets up to our own words about one request, as long as the endpoint is that one."""
        self.path = target.partition(b"?")[0] if b"?" in target else target
        """The raw path. Authentication, routing and forwarding all use this one string (faults.md T4)."""

    def __repr__(self) -> str:
        return f"<Head {self.method!r} {len(self.fields)} fields>"


Hosts = frozenset[bytes]
"""Lower-case values of Host we answer for, with or without a port; empty means any."""
SINGLE = frozenset(
    (
        b"host",
        b"authorization",
        b"x-api-key",
        b"content-type",
        b"content-encoding",
        b"expect",
        b"transfer-encoding",
        b"content-length",
    )
)
"""Fields of which two would leave it open which one counts."""
NAME_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789-"
TARGET = re.compile(rb"(/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*)(?:\?[!-~]*)?")
NOT_NORMAL = re.compile(
    rb"//|/\.{1,2}(?:/|\Z)"  # segments that normalising removes
    rb"|%(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])"  # escapes of characters that need none
    rb"|%(?:[01].|7F)"  # controls
)
"""What a normal path does not have (RFC 3986 section 6.2.2)."""
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\.?)(?::([0-9]{1,5}))?")


@functools.lru_cache(maxsize=256)  # clients repeat themselves; at most 2 MiB of targets
def _origin_form(target: bytes) -> bool:
    """Whether a request target is a path that normalising would not change, and perhaps a query."""
    found = TARGET.fullmatch(target)
    return found is not None and not NOT_NORMAL.search(found[1])


@functools.lru_cache(maxsize=256)
def _host_name(value: bytes) -> bytes | None:
    """The name in a value of Host, in lower case; None when the value is not well formed."""
    found = HOST.fullmatch(value)
    if found is None or int(found[2] or 0) > 65535:
        return None
    return found[1].lower()


def version(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """1: exactly HTTP/1.1 or HTTP/1.0."""
    return None if head.version in ("1.1", "1.0") else Reason.HTTP_VERSION


def transfer_encoding(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """2: `chunked`, once, alone, and never on HTTP/1.0."""
    coding = head.named[b"transfer-encoding"]
    return None if coding.lower() == b"chunked" and head.modern else Reason.BAD_FRAMING


def no_upgrade(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """3: no Upgrade of any kind, no h2c. (CONNECT's target is not in origin form, so rule 4 refuses it.)"""
    return Reason.BAD_FRAMING


def target(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """4: origin form, visible ASCII, no fragment, and a path that normalising would not change."""
    return None if _origin_form(head.target) else Reason.BAD_FRAMING


def host(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """5: the grammar of RFC 9110 section 7.2 (never empty), and a name we answer for."""
    value = head.named.get(b"host")
    if value is None:
        return Reason.BAD_FRAMING if head.modern or hosts else None
    name = _host_name(value)
    if name is None:
        return Reason.BAD_FRAMING
    return None if not hosts or name in hosts or value.lower() in hosts else Reason.MISDIRECTED


def names(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """6: field names of letters, digits and `-`; `_` would make two names one in many a server."""
    return Reason.BAD_FRAMING if b"".join(head.named).translate(None, NAME_BYTES) else None


def repeats(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """2, 5: no second field where only one may count."""
    if len(head.named) == len(head.fields):
        return None
    seen: set[bytes] = set()
    for name, _ in head.fields:
        if name in SINGLE:
            if name in seen:
                return Reason.BAD_FRAMING
            seen.add(name)
    return None


def content_encoding(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """7: bodies are never decoded, so a coded one can't be read for routing."""
    return None if head.named[b"content-encoding"].lower() == b"identity" else Reason.UNSUPPORTED_ENCODING


def expect(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """8: only `100-continue`."""
    return None if head.named[b"expect"].lower() == b"100-continue" else Reason.EXPECTATION_FAILED


def length(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """2: a POST says where its body ends; else what follows could be taken for it, or it for a request."""
    if head.method == b"POST" and not (b"content-length" in head.named or b"transfer-encoding" in head.named):
        return Reason.BAD_FRAMING
    return None


def sizes(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """12: what the head may weigh. The connection has bounded it while it arrived; this is the exact limit."""
    fields = head.fields
    if len(fields) > limits.header_count or len(head.target) > limits.url_bytes:
        return Reason.HEADERS_TOO_LARGE
    weights = [len(name) + len(value) for name, value in fields]
    if weights and (max(weights) > limits.header_bytes or sum(weights) > limits.head_bytes):
        return Reason.HEADERS_TOO_LARGE
    return None


def body_size(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """12: what the body may weigh, as far as it is announced."""
    announced = head.named[b"content-length"]
    if not announced.isdigit():
        return Reason.BAD_FRAMING
    return Reason.BODY_TOO_LARGE if int(announced) > limits.body_bytes else None


Rule = Callable[[Head, "Limits", Hosts], Reason | None]
RULES: tuple[Rule, ...] = (version, target, host, names, repeats, length, sizes)
"""What holds for every head."""
FIELD_RULES: dict[bytes, Rule] = {
    b"transfer-encoding": transfer_encoding,
    b"upgrade": no_upgrade,
    b"http2-settings": no_upgrade,
    b"content-encoding": content_encoding,
    b"expect": expect,
    b"content-length": body_size,
}
"""What holds for a field, where it came."""


def refusal(head: Head, limits: Limits, hosts: Hosts) -> Reason | None:
    """The first rule the head breaks, as the reason to refuse it."""
    for rule in RULES:
        reason = rule(head, limits, hosts)
        if reason is not None:
            return reason
    named = head.named
    for name, rule in FIELD_RULES.items():
        if name in named:
            reason = rule(head, limits, hosts)
            if reason is not None:
                return reason
    return None
