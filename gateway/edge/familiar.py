"""A head this connection has sent before: parsed, judged and authorised once, recognised by its bytes from then on.

Clients repeat their heads on a kept connection, but for the length of the body. Bytes that are equal except in the
digits of Content-Length parse equal except in that number, so what the parser, the gate and the keys said of them
still holds, as long as the rules are the same objects. Anything else goes the whole way (client.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.edge import wire
from gateway.edge.gate import Head
from gateway.edge.plane import Plane

if TYPE_CHECKING:
    from gateway.auth import Client

MAX_HEAD = 4096
"""Bytes of head worth remembering for as long as a connection lives; the usual SDKs send under 1,000."""
LENGTH_DIGITS = 8
"""Bodies are below 100 MB here."""
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,%d})\r\n" % LENGTH_DIGITS, re.IGNORECASE)


class Familiar:
    """What is known of one head."""

    __slots__ = ("_digits", "_hosts", "_keys", "_limits", "_prefix", "_suffix", "_window", "client", "head")

    def __init__(self, prefix: bytes, suffix: bytes, head: Head, client: Client, plane: Plane) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._digits = len(prefix)
        """Where those of Content-Length begin."""
        self._window = len(prefix) + LENGTH_DIGITS + len(suffix)
        self.head = head
        self.client = client
        self._keys = plane.keys
        self._limits = plane.limits
        self._hosts = plane.hosts

    def __repr__(self) -> str:
        return f"<Familiar {self._prefix[:40]!r}>"

    def body(self, data: bytes, plane: Plane) -> bytes | None:
        """The body, if `data` is exactly one whole request with this head and the rules have not changed."""
        if not data.startswith(self._prefix):
            return None
        suffix, limits = self._suffix, self._limits
        end = data.find(suffix, self._digits, self._window)
        if end < 0:
            return None
        length, body = data[self._digits : end], data[end + len(suffix) :]
        if not length.isdigit() or int(length) != len(body) or len(body) > limits.body_bytes:
            return None
        if plane.limits is not limits or plane.keys is not self._keys or plane.hosts is not self._hosts:
            return None
        return body


def learn(data: bytes, head: Head, client: Client, plane: Plane) -> Familiar | None:
    """Remember the head of `data`, which held exactly one request, if it is of the kind that repeats."""
    if b"expect" in head.named or not data.startswith(head.method):
        return None
    end = data.find(wire.HEAD_END, 0, MAX_HEAD) + len(wire.HEAD_END)
    found = LENGTH.search(data, 0, end)
    if found is None or len(data) - end != int(found[1]):
        return None
    return Familiar(data[: found.start(1)], data[found.end(1) : end], head, client, plane)
