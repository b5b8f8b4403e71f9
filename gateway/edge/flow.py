"""Back-pressure between two transports: who can't be written to stops the one being read from.

An `Outlet` is the writable side of a client's connection. While its transport is above the high-water mark the
attached source (an upstream transport) is not read. How long a client may stall is its connection's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib

HIGH_WATER = 64 * 1024
"""Bytes we buffer for a slow reader before its source is paused: one large read of uvloop."""
SEND_BUFFER = 96 * 1024
"""SO_SNDBUF of client sockets. The kernel doubles it; a stalled reader then holds under 256 KiB (faults.md F33)."""


class Outlet:
    """Where a client's answer is written to, and the source that must pause when it does not drain."""

    __slots__ = ("_source", "held_up", "paused", "transport")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport
        self._source: asyncio.ReadTransport | None = None
        self.paused = False
        self.held_up = False
        """Whether the source has had to wait since it was attached."""
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def __repr__(self) -> str:
        return f"<Outlet {'paused' if self.paused else 'open'}{' fed' if self._source else ''}>"

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def attach(self, source: asyncio.ReadTransport) -> None:
        """From now on `source` is read only as fast as this side drains."""
        self._source = source
        self.held_up = self.paused
        if self.paused:
            _hold(source)

    def detach(self) -> None:
        """The source is done or gone; it is left readable, so that it can be reused."""
        source, self._source = self._source, None
        self.held_up = False
        if source is not None and self.paused:
            _free(source)

    def pause(self) -> None:
        self.paused = True
        if self._source is not None:
            self.held_up = True
            _hold(self._source)

    def resume(self) -> None:
        self.paused = False
        if self._source is not None:
            _free(self._source)


def _hold(source: asyncio.ReadTransport) -> None:
    with contextlib.suppress(RuntimeError):  # a transport that is closing can't be paused, and needn't be
        source.pause_reading()


def _free(source: asyncio.ReadTransport) -> None:
    with contextlib.suppress(RuntimeError):
        source.resume_reading()
