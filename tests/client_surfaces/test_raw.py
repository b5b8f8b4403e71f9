"""Raw sockets: keep-alive, pipelining, slow senders, and what must be refused and closed."""

import json
import socket
from urllib.parse import urlsplit

import pytest

BODY = json.dumps({"model": "tinychat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}).encode()


def post(body: bytes = BODY, *fields: bytes) -> bytes:
    head = [b"POST /v1/chat/completions HTTP/1.1", b"host: localhost", b"content-type: application/json"]
    return b"\r\n".join([*head, b"content-length: %d" % len(body), *fields, b"", b""]) + body


@pytest.fixture
def wire(gateway):
    parts = urlsplit(gateway.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        yield connection


def read_reply(connection: socket.socket, buffer: bytearray) -> tuple[int, bytes]:
    """One reply framed by content-length; the rest stays in the buffer."""
    while b"\r\n\r\n" not in buffer:
        buffer += _more(connection)
    head, _, _ = bytes(buffer).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    end = len(head) + 4 + int(fields[b"content-length"])
    while len(buffer) < end:
        buffer += _more(connection)
    body = bytes(buffer[len(head) + 4 : end])
    del buffer[:end]
    return int(head.split()[1]), body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "closed in the middle of a reply"
    return data


def read_to_end(connection: socket.socket) -> bytes:
    pieces = []
    while data := connection.recv(65536):
        pieces.append(data)
    return b"".join(pieces)


def test_connection_is_kept_alive(wire):
    buffer = bytearray()
    for _ in range(3):
        wire.sendall(post())
        assert read_reply(wire, buffer)[0] == 200


def test_pipelined_requests_are_answered_in_order(wire):
    wire.sendall(post() + post(b"{") + post())
    buffer = bytearray()
    assert [read_reply(wire, buffer)[0] for _ in range(3)] == [200, 400, 200]


def test_a_request_may_come_byte_by_byte(wire):
    for byte in post():
        wire.sendall(bytes([byte]))
    assert read_reply(wire, bytearray())[0] == 200


def test_chunked_request_body(wire):
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(BODY[at : at + 20]), BODY[at : at + 20]) for at in range(0, len(BODY), 20))
    head = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    wire.sendall(head + chunks + b"0\r\n\r\n")
    assert read_reply(wire, bytearray())[0] == 200


def test_connection_close_is_honoured(wire):
    wire.sendall(post(BODY, b"connection: close"))
    assert read_to_end(wire).startswith(b"HTTP/1.1 200")


SMUGGLED = b"POST /v1/smuggled HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(BODY, b"transfer-encoding: chunked") + SMUGGLED,
        post(BODY, b"content-length: 3") + SMUGGLED,
        post().replace(b"content-length: ", b"content-length: +") + SMUGGLED,
        post(BODY, b"transfer-encoding : chunked") + SMUGGLED,
        post().replace(b"host: localhost\r\n", b"") + SMUGGLED,
        post(BODY, b"x-folded: a\r\n b") + SMUGGLED,
        post(BODY, b"x-nul: a\x00b") + SMUGGLED,
        post().replace(b"HTTP/1.1", b"HTTP/9.9") + SMUGGLED,
        b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n" + SMUGGLED,
    ],
    ids=["both framings", "two lengths", "signed", "space", "no host", "folded", "nul", "version", "tls"],
)
def test_what_is_ambiguous_is_refused_once_and_closed(wire, request_bytes):
    wire.sendall(request_bytes)
    reply = read_to_end(wire)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert reply.split()[1] in (b"400", b"505")
    assert b"smuggled" not in reply
    assert set(json.loads(reply.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
