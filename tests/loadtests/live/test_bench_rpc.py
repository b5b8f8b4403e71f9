"""The bench's own messages are the protocol's, its ends speak, and its row says what it says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from loadtests.live import bench_rpc
from loadtests.processes import Child
from workers.proto import messages


def test_its_messages_are_the_protocols() -> None:
    request = messages.ModelInferRequest.FromString(bench_rpc.REQUEST)
    assert (request.model_name, request.inputs[0].datatype, list(request.inputs[0].shape)) == (
        "bench",
        "FP32",
        [1, 240],
    )
    assert len(request.raw_input_contents[0]) == 4 * 240
    assert len(messages.ModelInferResponse.FromString(bench_rpc.ANSWER).raw_output_contents[0]) == 900
    assert f"/{messages.INFERENCE}/ModelInfer" == bench_rpc.METHOD


@pytest.mark.parametrize(("number", "written"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\1"), (300, b"\xac\2")])
def test_numbers_are_written_as_protobuf_does(number: int, written: bytes) -> None:
    assert bench_rpc.varint(number) == written


@pytest.mark.slow
async def test_the_client_counts_what_the_stub_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = Child("stub", [sys.executable, "-m", "loadtests.live.bench_rpc", "--stub"], tmp_path)
    try:
        port = int((await asyncio.to_thread(child.wait_ready, 20.0)).split()[1])
        await bench_rpc.send(port, 0.2)
    finally:
        child.end()
    assert int(capsys.readouterr().out) > 0


def test_the_row_is_the_median() -> None:
    row = bench_rpc.row([bench_rpc.Turn(300.0, 900.0), bench_rpc.Turn(200.0, 1000.0), bench_rpc.Turn(900.0, 100.0)])
    assert (row["isochrone_grpc_us"], row["isochrone_grpc_us_min_max"]) == (300.0, [200.0, 900.0])
    assert row["isochrone_grpc_per_second"] == 900
