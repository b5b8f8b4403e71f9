"""The bench's stub and client speak HTTP, however their bytes are cut."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.live.bench_ends import ANSWER, ANSWER_BODY, BODY, Sender, Stub, send

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Transport(asyncio.WriteTransport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)


@pytest.mark.parametrize("step", [1, 7, 500, 10_000])
def test_the_stub_answers_whole_requests_however_they_are_cut(step: int) -> None:
    stub, transport = Stub(), Transport()
    stub.connection_made(transport)
    data = REQUEST * 3
    for start in range(0, len(data), step):
        stub.data_received(data[start : start + step])
    assert transport.sent == ANSWER * 3


@pytest.mark.parametrize("step", [1, 7, 500, 10_000])
def test_the_client_sends_the_next_request_when_an_answer_is_whole(step: int) -> None:
    sender, transport = Sender(b"request ", lambda: None), Transport()
    sender.connection_made(transport)
    for answer in (ANSWER, ANSWER.replace(b"200 OK", b"503 No")):
        for start in range(0, len(answer), step):
            sender.data_received(answer[start : start + step])
    assert (sender.answered, sender.failed) == (2, 1)
    assert transport.sent == b"request " * 3


def test_the_answer_is_framed_by_its_length() -> None:
    head, _, body = ANSWER.partition(b"\r\n\r\n")
    assert body == ANSWER_BODY
    assert b"Content-Length: %d" % len(body) in head


async def test_the_bundled_client_loads_a_stub(capsys: pytest.CaptureFixture[str]) -> None:
    stubs: list[Stub] = []

    def accept() -> Stub:
        stubs.append(Stub())
        return stubs[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    await send(server.sockets[0].getsockname()[1], 0.1)
    said = capsys.readouterr().out
    assert int(said.split()[0]) > 0
    assert "Non-2xx or 3xx responses: 0" in said
    for stub in stubs:
        stub._transport.abort()  # type: ignore[attr-defined]
    server.close()
    await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn
