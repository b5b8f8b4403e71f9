"""One answer of a worker as far as it has arrived: what the parser's callbacks collect, and what is too much.

It knows no socket: upstream.py feeds it, and the exchange takes from it once per read, off the parser's stack.
"""

from __future__ import annotations

import httptools

Fields = list[tuple[bytes, bytes]]

MAX_REPLY_FIELDS = 200
"""Header fields of one reply; engines send about ten."""
MAX_REPLY_HEAD = 64 * 1024
"""Bytes of names and values, twice what we accept from clients; more is garbage (faults.md F07)."""


class BadReplyError(Exception):
    """The worker said something that HTTP/1.1 does not allow here."""


class Reply:
    """One answer of a worker as far as it has arrived; the parser's callbacks fill it."""

    __slots__ = (
        "_unheaded",
        "awaited",
        "complete",
        "fields",
        "headed",
        "keep_alive",
        "parser",
        "parts",
        "size",
        "status",
    )

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.reset()
        self.awaited = False

    def __repr__(self) -> str:
        return f"<Reply {self.status} {self.size} bytes{' complete' if self.complete else ''}>"

    def reset(self) -> None:
        """Expect a new answer."""
        self.awaited = True
        self.headed = False
        self.complete = False
        self.keep_alive = False
        self.status = 0
        self.fields: Fields = []
        self.parts: list[bytes] = []
        self.size = 0
        self._unheaded = 0

    @property
    def began(self) -> bool:
        """Whether anything of it has arrived."""
        return not self.awaited or self.headed

    def heavy(self, received: int) -> bool:
        """Whether its head has grown beyond all reason, given the size of the last read."""
        self._unheaded += received
        return self._unheaded > MAX_REPLY_HEAD

    def take(self) -> bytes:
        """The body bytes that arrived since the last time."""
        parts = self.parts
        if len(parts) == 1:
            return parts.pop()
        body = b"".join(parts)
        parts.clear()
        return body

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        if not self.awaited:
            raise BadReplyError("bytes that belong to no request")
        self.awaited = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:
            return  # trailers say nothing we pass on
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if len(self.fields) > MAX_REPLY_FIELDS:
            raise BadReplyError("too many fields")
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()
        if self.status >= 200:
            self.headed = True

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def on_message_complete(self) -> None:
        if self.headed:
            self.complete = True
        else:
            self.reset()  # an interim answer (RFC 9110 section 15.2); the final one follows
