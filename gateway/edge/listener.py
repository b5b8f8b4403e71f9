"""Accepts clients: on an address of its own or on an inherited socket, up to a cap, until drained.

The cap leaves file descriptors for upstream connections, so that a flood of idle clients ends in 503s and not in
EMFILE (faults.md F38). Draining finishes what has begun and takes nothing new. Next: client.py.
"""

from __future__ import annotations

import asyncio
import resource
import socket

from gateway.edge.client import ClientConnection
from gateway.edge.flow import SEND_BUFFER
from gateway.edge.plane import Plane
from policies.reason import Reason
from policies.request import Shed

BACKLOG = 4096
"""Connections the kernel holds for us; it caps this by net.core.somaxconn."""
DESCRIPTOR_SHARE = 0.8
"""Of the file descriptors this process may open, the share that may be clients (faults.md F38)."""


DRAINING = Shed(Reason.DRAINING, retry_after=1.0)
FULL = Shed(Reason.OVERLOADED, "Too many connections.", retry_after=1.0)


class Listener:
    """One listening socket and the connections that came by it."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._most = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * DESCRIPTOR_SHARE)
        self.port = 0

    def __repr__(self) -> str:
        return f"<Listener port {self.port} connections {len(self._connections)}/{self._cap()}>"

    async def start(self, sock: socket.socket) -> None:
        # Accepted sockets inherit it: a reader that stalls is held to this much kernel memory.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        loop = asyncio.get_running_loop()
        self._plane.wheel.start(loop)
        self._server = await loop.create_server(lambda: ClientConnection(self._plane, self), sock=sock, backlog=BACKLOG)
        self.port = sock.getsockname()[1]

    def _cap(self) -> int:
        """Connections at once; a reload may change the configured part."""
        return min(self._plane.limits.connections, self._most)

    # What connections tell.

    def opened(self, connection: ClientConnection) -> Shed | None:
        """Why this one may not be served, or None."""
        self._connections.add(connection)
        draining = self._plane.draining
        if draining or len(self._connections) > self._cap():
            self._plane.telemetry.count("connections.refused")
            return DRAINING if draining else FULL
        self._plane.telemetry.count("connections.accepted")
        return None

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._plane.telemetry.count("connections.closed")
        if not self._connections:
            self._empty.set()

    # Endings.

    async def drain(self, seconds: float) -> bool:
        """Accept nothing more, let what has begun finish; whether it did within `seconds`."""
        self._plane.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(seconds):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End everything now."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()


async def listen(plane: Plane, where: socket.socket | tuple[str, int]) -> Listener:
    """Serve on an inherited listening socket, or on a host and port of our own. Raises OSError."""
    if isinstance(where, tuple):
        host, port = where
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        where = socket.create_server((host, port), family=family, backlog=BACKLOG)
    where.setblocking(False)
    listener = Listener(plane)
    await listener.start(where)
    return listener
