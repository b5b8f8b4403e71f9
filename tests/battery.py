"""Hostile and broken requests, each with its verdict: what the client must get, and how many requests may go on.

Ported from a battery that showed what a server does without judging it. `status` is the first answer's, `served` the
number of requests the origin may see: 0 or 1, never 2, whatever follows the first request in its bytes. Every case
with a 4xx or 5xx must also end with the connection closed by us.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import NamedTuple

HOST = b"Host: a\r\n"
CHAT = b'{"model":"chat","messages":[{"role":"user","content":"hi"}]}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)
BODY = LENGTH + b"\r\n" + CHAT
ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
SMUGGLED = POST + BODY
BOMB = gzip.compress(b"\0" * 20_000_000)
WAIT = 5.0
"""Seconds for an answer; none of these needs a timeout of ours to end."""


class Case(NamedTuple):
    name: str
    parts: tuple[bytes, ...]
    status: int
    served: int = 0
    open: bool = False
    """Whether the connection lives on."""
    shut: bool = False
    """Whether the client half-closes after sending."""


def bad(name: str, *parts: bytes, status: int = 400, served: int = 0, shut: bool = False) -> Case:
    return Case(name, parts, status, served, shut=shut)


def good(name: str, *parts: bytes, served: int = 1) -> Case:
    return Case(name, parts, 200, served, open=True)


CASES: tuple[Case, ...] = (
    # Framing that two parsers could read differently (faults.md F35).
    bad("CL and TE", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    bad("TE and CL", CHUNKED + LENGTH + b"\r\n" + ONE_CHUNK),
    bad("two CL, the same", POST + LENGTH + BODY),
    bad("two CL, different", POST + b"Content-Length: 0\r\n" + BODY),
    bad("CL list", POST + b"Content-Length: 60, 60\r\n\r\n" + CHAT),
    bad("CL with plus", POST + b"Content-Length: +60\r\n\r\n" + CHAT),
    bad("CL with minus", POST + b"Content-Length: -1\r\n\r\n" + CHAT),
    bad("CL hexadecimal", POST + b"Content-Length: 0x3c\r\n\r\n" + CHAT),
    bad("CL empty", POST + b"Content-Length:\r\n\r\n" + CHAT),
    bad("CL with underscore digits", POST + b"Content-Length: 6_0\r\n\r\n" + CHAT),
    bad("CL overflow", POST + b"Content-Length: 99999999999999999999999\r\n\r\n" + CHAT),
    bad("TE xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    bad("TE chunked, identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    bad("TE identity, chunked", POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    bad("TE gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    bad("TE identity", POST + b"Transfer-Encoding: identity\r\n" + BODY),
    bad("TE twice", CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + ONE_CHUNK),
    bad("TE with vertical tab", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + ONE_CHUNK),
    bad("TE on HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + b"\r\n" + ONE_CHUNK),
    bad("space before colon", POST + b"Content-Length : 60\r\n\r\n" + CHAT),
    bad("folded line", GET + HOST + b"X: a\r\n b\r\n\r\n"),
    bad("folded TE", POST + b"Transfer-Encoding:\r\n chunked\r\n" + BODY),
    bad("bare LF", b"GET /v1/models HTTP/1.1\nHost: a\n\n"),
    bad("bare LF in one line", GET + b"Host: a\nX: b\r\n\r\n"),
    bad("bare CR in value", GET + HOST + b"X: a\rb\r\n\r\n"),
    bad("NUL in value", GET + HOST + b"X: a\0b\r\n\r\n"),
    bad("control in value", GET + HOST + b"X: a\x01b\r\n\r\n"),
    bad("NUL in name", GET + HOST + b"X\0: a\r\n\r\n"),
    bad("no colon", GET + HOST + b"X\r\n\r\n"),
    bad("empty name", GET + HOST + b": x\r\n\r\n"),
    bad("chunk extension with LF", CHUNKED + b"\r\n2;a\nb\r\nhi\r\n0\r\n\r\n"),
    bad("chunk size overflow", CHUNKED + b"\r\nfffffffffffffffff\r\nhi\r\n0\r\n\r\n"),
    bad("chunk size 0x", CHUNKED + b"\r\n0x2\r\nhi\r\n0\r\n\r\n"),
    bad("chunk size minus", CHUNKED + b"\r\n-2\r\nhi\r\n0\r\n\r\n"),
    bad("chunk size and space", CHUNKED + b"\r\n2 \r\nhi\r\n0\r\n\r\n"),
    bad("chunk ended by LF", CHUNKED + b"\r\n2\nhi\n0\n\n"),
    bad("chunk longer than said", CHUNKED + b"\r\n2\r\nhiX\r\n0\r\n\r\n"),
    bad("websocket and body", b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
        b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED),
    bad("h2c upgrade", GET + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:\r\n\r\n"),
    bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    bad("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("a second request in the body's place", POST + b"\r\n" + SMUGGLED),  # CL.0: the first has an empty body
    bad("body cut off", POST + b"Content-Length: 100\r\n\r\nhi", shut=True),
    bad("head cut off", POST + b"Content-Le", shut=True),
    # Version, target, host, names.
    bad("HTTP/2.0", b"GET /v1/models HTTP/2.0\r\nHost: a\r\n\r\n", status=505),
    bad("HTTP/0.9", b"GET /v1/models\r\n\r\n", status=505),
    bad("HTTP/1.2", b"GET /v1/models HTTP/1.2\r\nHost: a\r\n\r\n"),
    bad("lower-case method", b"get /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("unknown method", b"FOO /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("no Host", GET + b"\r\n"),
    bad("two Hosts", GET + b"Host: a\r\nHost: b\r\n\r\n"),
    bad("empty Host", GET + b"Host:\r\n\r\n"),
    bad("Host with a path", GET + b"Host: a/?x=\r\n\r\n"),
    bad("Host with a fragment", GET + b"Host: a#\r\n\r\n"),
    bad("Host with credentials", GET + b"Host: a@b\r\n\r\n"),
    bad("Host with a large port", GET + b"Host: a:99999\r\n\r\n"),
    bad("absolute form", b"GET http://evil/v1/models HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("fragment", b"GET /v1/models#x HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("dot segments", b"GET /v1/../admin HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("encoded dot segments", b"GET /v1/%2e%2e/admin HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("double slash", b"GET //v1/models HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("encoded letter", b"GET /v1/%6dodels HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("lower-case escape", b"GET /v1/models/a%2fb HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("broken escape", b"GET /v1/models/%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("byte above ASCII in the path", b"GET /v1/mod\xc3\xa9ls HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("backslash", b"GET /v1\\models HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad("underscore in a name", GET + HOST + b"x_forwarded_for: 1.1.1.1\r\n\r\n"),
    bad("dot in a name", GET + HOST + b"x.y: 1\r\n\r\n"),
    bad("two Authorizations", GET + HOST + b"Authorization: a\r\nAuthorization: b\r\n\r\n"),
    # Codings and expectations.
    bad("gzip body", POST + b"Content-Encoding: gzip\r\n" + BODY, status=415),
    bad("nested codings", POST + b"Content-Encoding: gzip, gzip\r\n" + BODY, status=415),
    bad("gzip bomb", POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB, status=415),
    bad("Expect junk", POST + b"Expect: foo\r\n" + BODY, status=417),
    # Limits (F36).
    bad("140 fields", GET + HOST + b"".join(b"X%d: 1\r\n" % i for i in range(140)) + b"\r\n", status=431),
    bad("9 KiB field", GET + HOST + b"X: " + b"a" * 9000 + b"\r\n\r\n", status=431),
    bad("20 KiB field, in pieces", GET + HOST + b"X: ", *[b"a" * 500] * 40, b"\r\n\r\n", status=431),
    bad("endless head", GET + HOST, *[b"X-%d: " % i + b"a" * 4000 + b"\r\n" for i in range(20)], status=431),
    bad("9 KiB URL", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", status=431),
    bad("17 MiB announced", POST + b"Content-Length: 17825792\r\n\r\n", status=413),
    bad("17 MiB in chunks", CHUNKED + b"\r\n", *[b"100000\r\n" + b"a" * 0x100000 + b"\r\n"] * 17, status=413),
    bad("CL in a trailer", CHUNKED + b"\r\n2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n"),
    bad("many trailers", CHUNKED + b"\r\n2\r\nhi\r\n0\r\n" + b"X: y\r\n" * 100 + b"\r\n", status=431),
    bad("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))),
    bad("deep JSON", POST + b"Content-Length: 100000\r\nConnection: close\r\n\r\n" + b"[" * 100_000),
    # What must work, beside all this.
    good("plain", POST + BODY),
    good("chunked", CHUNKED + b"\r\n" + ONE_CHUNK),
    good("chunk extension and trailer", CHUNKED + b"\r\n3c;a=b\r\n" + CHAT + b"\r\n0\r\nX: y\r\n\r\n"),
    good("byte by byte", *[bytes([byte]) for byte in POST + BODY]),
    good("space around a value", POST + b"Content-Length:  60 \r\n\r\n" + CHAT),
    good("leading empty lines", b"\r\n\r\n" + POST + BODY),
    good("query", POST.replace(b"completions ", b"completions?x=1 ") + BODY),
    good("two in one write", POST + BODY + POST + BODY, served=2),
    good("expect", POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n", CHAT),
    good("Host with a port", POST.replace(b"Host: a", b"Host: a.example:8080") + BODY),
    good("Host in brackets", POST.replace(b"Host: a", b"Host: [::1]:8080") + BODY),
)  # fmt: skip


class Shot(NamedTuple):
    """What came back."""

    statuses: list[int]
    closed: bool
    data: bytes


async def shoot(port: int, case: Case) -> Shot:
    """Send a case's parts and read until we are closed on, or until its answers are whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data, closed = b"", False
    try:
        for part in case.parts:
            writer.write(part)
            await writer.drain()
            if len(case.parts) > 1:
                await asyncio.sleep(0)  # a write of its own each, as far as the kernel lets it
        if case.shut:
            writer.write_eof()
        async with asyncio.timeout(WAIT):
            while not (case.open and _finals(data) == case.served):
                piece = await reader.read(65536)
                if not piece:
                    closed = True
                    break
                data += piece
    except (ConnectionError, TimeoutError) as error:
        closed = isinstance(error, ConnectionError)
    finally:
        writer.close()
    return Shot([int(status) for status in _STATUS.findall(data)], closed, data)


_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def _finals(data: bytes) -> int:
    """Whole answers so far, interim ones not counted."""
    return data.count(ORIGIN_BODY)


ORIGIN_BODY = b'{"choices":[],"served":"once"}'
ORIGIN_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ORIGIN_BODY),
    ORIGIN_BODY,
)


class Origin(asyncio.Protocol):
    """A worker that counts requests in the way of a credulous parser: every request line in its bytes is one."""

    def __init__(self, seen: list[bytes]) -> None:
        self._seen = seen
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            found = re.search(rb"Content-Length: (\d+)", head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self._seen.append(head + b"\r\n\r\n" + rest[:length])
            self._buffer = rest[length:]
            self._transport.write(ORIGIN_ANSWER)  # type: ignore[attr-defined]
