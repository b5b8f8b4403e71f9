"""Asking a control plane: the answer, or which of two things went wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gateway.inquiry import Inquiry, RefusedError, UnreachableError

REPLIES: dict[str, tuple[int, bytes]] = {
    "/good": (200, b'{"a": 1}'),
    "/refused": (404, b'{"error": {"message": "No such worker.", "type": "x", "param": "worker", "code": "y"}}'),
    "/odd": (500, b"<html>"),
    "/text": (200, b"hello"),
    "/away": (302, b""),
}


class Recorder(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.seen.append((self.command, self.path, self.headers.get("authorization", "")))
        status, body = REPLIES[self.path.partition("?")[0]]
        length = int(self.headers.get("content-length", 0))
        server.bodies.append(self.rfile.read(length))
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/good")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Recorder)
        self.seen: list[tuple[str, str, str]] = []
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_key_and_the_body_are_sent(server: Server) -> None:
    inquiry = Inquiry(server.url.removeprefix("http://"), "ops.secret")
    assert inquiry.ask("POST", "/good", body={"worker": "a"}, query={"model": "a b"}) == {"a": 1}
    assert server.seen == [("POST", "/good?model=a+b", "Bearer ops.secret")]
    assert json.loads(server.bodies[0]) == {"worker": "a"}


def test_a_refusal_has_its_status_message_and_field(server: Server) -> None:
    with pytest.raises(RefusedError, match=r"No such worker. \(worker\)") as refused:
        Inquiry(server.url).ask("GET", "/refused")
    assert refused.value.status == 404
    with pytest.raises(RefusedError, match="status 500"):
        Inquiry(server.url).ask("GET", "/odd")


def test_a_key_never_follows_a_redirect(server: Server) -> None:
    with pytest.raises(RefusedError, match="status 302"):
        Inquiry(server.url, "ops.secret").ask("GET", "/away")
    assert len(server.seen) == 1


def test_nobody_there_or_nobody_who_speaks_json(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)  # an environment's proxy is not asked
    with pytest.raises(UnreachableError, match=r"no gateway answers at http://127.0.0.1:1: connection refused"):
        Inquiry("http://127.0.0.1:1").ask("GET", "/good")
    with pytest.raises(UnreachableError, match="no gateway answers"):
        Inquiry(server.url).ask("GET", "/text")
    with pytest.raises(UnreachableError, match="not an http URL"):
        Inquiry("file:///etc/passwd").ask("GET", "")
