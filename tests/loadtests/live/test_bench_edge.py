"""The bench's own parts: its stub and its client speak HTTP, its figures are what they are said to be."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from loadtests.live import bench_edge
from loadtests.live.bench_edge import ANSWER, ANSWER_BODY, BODY, NODES, Round, Sender, Stub
from policies import records
from policies.records import Worker

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


def test_the_request_is_about_a_kibibyte() -> None:
    assert abs(len(BODY) - 1024) < 32


def test_the_fleet_is_32_nodes_that_a_registry_takes() -> None:
    fleet = bench_edge.workers([1, 2, 3, 4])
    assert len({worker.id for worker in fleet}) == NODES
    assert len({worker.address for worker in fleet}) == 4
    for worker in fleet:
        assert isinstance(records.open_worker(records.seal_worker(worker), None), Worker)


def test_the_summary_pairs_rounds_and_takes_medians() -> None:
    found = {
        "isochrone": [Round(40.0, 1.0), Round(60.0, 2.0), Round(50.0, 3.0)],
        "nginx": [Round(20.0, 1.0), Round(20.0, 2.0), Round(20.0, 3.0)],
    }
    result = bench_edge.summary(found)
    assert (result["isochrone_us"], result["nginx_us"], result["ratio_nginx"]) == (50.0, 20.0, 2.5)
    assert result["ratio_nginx_min_max"] == [2.0, 3.0]


def test_cpu_time_grows_with_work_done() -> None:
    before = bench_edge.cpu_seconds(os.getpid())
    total = 0
    while bench_edge.cpu_seconds(os.getpid()) < before + 0.02:
        total += sum(range(1000))
    assert total > 0


def test_without_nginx_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_edge, "nginx_path", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench_edge"])
    assert bench_edge.main() == 2
    assert "nginx" in capsys.readouterr().err


async def test_the_bundled_client_loads_a_stub(capsys: pytest.CaptureFixture[str]) -> None:
    stubs: list[Stub] = []

    def accept() -> Stub:
        stubs.append(Stub())
        return stubs[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    await bench_edge.send(server.sockets[0].getsockname()[1], 0.1)
    said = capsys.readouterr().out
    assert int(said.split()[0]) > 0
    assert "Non-2xx or 3xx responses: 0" in said
    for stub in stubs:
        stub._transport.abort()  # type: ignore[attr-defined]
    server.close()
    await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn


def test_the_result_goes_to_the_build_folder() -> None:
    assert Path("build/bench/edge.json") == bench_edge.RESULT
