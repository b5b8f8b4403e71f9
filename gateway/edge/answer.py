"""The one answer a client gets: its head, its framing, its pieces and its ending, whole or broken.

Framing is ours, whatever the worker's was: by length where that is known, else by chunks, else (HTTP/1.0) by the end
of the connection. An answer that breaks off after its first byte never ends in a way that looks complete.
"""

from __future__ import annotations

import msgspec

from gateway.edge import wire
from gateway.edge.flow import Outlet
from gateway.edge.gate import Head
from gateway.openai import errors
from policies.reason import TABLE, Reason
from policies.request import Shed


class Answer(msgspec.Struct, eq=False):
    """Written by the exchange, in this order: `whole`, or `refuse`, or `begin`, `piece`s and `end` or `interrupt`."""

    outlet: Outlet
    head: Head
    keep: bool
    """Whether the connection may go on after it."""
    id: str = ""
    """The request's, echoed."""
    status: int = 0
    chunked: bool = False

    def whole(self, status: int, fields: bytes, content: bytes) -> None:
        """All of it at once. `fields` is the head from the status line on, without framing."""
        self.status = status
        ending = wire.HEAD_END if self.keep else wire.CLOSE + wire.HEAD_END
        write, length = self.outlet.transport.write, b"%d" % len(content)
        if len(content) < wire.JOIN_BYTES:
            write(b"".join((fields, wire.CONTENT_LENGTH, length, ending, content)))
        else:
            write(b"".join((fields, wire.CONTENT_LENGTH, length, ending)))
            write(content)

    def json(self, content: bytes) -> None:
        """A document of our own."""
        self.whole(200, wire.status_line(200) + wire.JSON + wire.REQUEST_ID + self.id.encode(), content)

    def abandon(self) -> None:
        """The client has left: nothing more is written."""
        self.status = TABLE[Reason.CLIENT_GONE].http
        self.keep = False

    def begin(self, status: int, fields: bytes, length: bytes | None) -> None:
        """The head of an answer that comes in pieces; `length` is its body's size, where the worker said it."""
        self.status = status
        parts = [fields]
        if length is not None:
            parts += (wire.CONTENT_LENGTH, length)
        elif self.head.modern:
            self.chunked = True
            parts.append(wire.CHUNKED)
        else:
            self.keep = False  # HTTP/1.0 knows no chunks: the end of the connection ends the body
        if not self.keep:
            parts.append(wire.CLOSE)
        parts.append(wire.HEAD_END)
        self.outlet.write(b"".join(parts))

    def piece(self, data: bytes) -> None:
        self.outlet.write(wire.chunk(data) if self.chunked else data)

    def end(self) -> None:
        """All pieces were written."""
        if self.chunked:
            self.outlet.write(wire.LAST_CHUNK)

    def interrupt(self, reason: Reason, events: bool) -> None:
        """It can't go on: an error event where the client reads events, and no ending (faults.md fact 4)."""
        if events:
            shown = reason if reason is Reason.DEADLINE_EXCEEDED else Reason.STREAM_INTERRUPTED
            self.piece(errors.event(shown, self.id))
        self.keep = False

    def refuse(self, shed: Shed, attempts: int) -> None:
        """An error instead of an answer."""
        self.status = TABLE[shed.reason].http
        allow = "POST" if self.head.method == b"GET" else "GET, POST"
        path, close = self.head.path, not self.keep
        data = errors.answer(shed, self.id, path=path, attempts=attempts, close=close, allow=allow)
        if self.head.method == b"HEAD":
            data = data.partition(wire.HEAD_END)[0] + wire.HEAD_END  # RFC 9110 section 9.3.2
        self.outlet.write(data)
