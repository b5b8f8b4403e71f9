"""The two ends of `bench_edge.py`: an upstream that answers as fast as it can, and a client for where wrk is missing.

Raw protocols, as little as speaks HTTP/1.1, each in a process of its own: neither is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

PORTS = 4
CONNECTIONS = 64
MODEL = "bench"

BODY = json.dumps(
    {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "x" * 940}]}, separators=(",", ":")
).encode()
ANSWER_BODY = json.dumps({"id": "x", "choices": [{"text": "y" * 900}], "usage": {"completion_tokens": 16}}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Server-Timing: queue;dur=0.010, prefill;dur=0.100, decode;dur=0.200, accel;dur=0.300\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


# The upstream: as little as speaks HTTP/1.1, so that it is never what is measured.


class Stub(asyncio.Protocol):
    """Answers every complete request with the same bytes."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(buffer, 0, end)
            end += 4 + (int(length[1]) if length else 0)
            if len(buffer) < end:
                break
            buffer = buffer[end:]
            self._transport.write(ANSWER)  # type: ignore[attr-defined]
        self._buffer = buffer


async def serve_stub() -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Stub, "127.0.0.1", 0, backlog=1024) for _ in range(PORTS)]
    print("ready", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


# The load: wrk where it is installed, else this.


class Sender(asyncio.Protocol):
    """One closed-loop connection: the next request leaves when the last answer is whole."""

    answered = 0
    failed = 0

    def __init__(self, request: bytes, lost: Callable[[], None]) -> None:
        self._request = request
        self._buffer = b""
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        length = LENGTH.search(buffer, 0, end) if end >= 0 else None
        if length is None or len(buffer) < end + 4 + int(length[1]):
            self._buffer = buffer
            return
        self._buffer = b""
        self.answered += 1
        self.failed += not buffer.startswith(b"HTTP/1.1 200")
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def close(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]


async def send(port: int, seconds: float) -> None:
    """Load `port` for a time; prints wrk's two lines."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n" + (
        b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    )
    senders: list[Sender] = []
    for _ in range(CONNECTIONS):
        _, sender = await loop.create_connection(lambda: Sender(request, ended.set), "127.0.0.1", port)
        senders.append(sender)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        ended.set()
    for sender in senders:
        sender.close()
    print(f"{sum(sender.answered for sender in senders)} requests in {seconds}s")
    print(f"Non-2xx or 3xx responses: {sum(sender.failed for sender in senders)}")
