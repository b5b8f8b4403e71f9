import asyncio

import aiohttp
import numpy as np
import orjson
import pytest

from tests.workers.fakes import Doubler, serving, tensor_entry, text_entry, until
from workers.oip import numbers

X = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, 3, 4]}
K = {"name": "k", "shape": [2, 1], "datatype": "INT64", "data": [7, 8]}


@pytest.fixture
async def bench():
    async with serving(tensor_entry(), tensor_entry(variant="int8"), text_entry()) as bench:
        yield bench


async def ask(bench, method, path, body=None, **headers):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, bench.url + path, json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.json()


async def infer(bench, *inputs, path="/v2/models/double/infer", **more):
    return await ask(bench, "POST", path, {"inputs": list(inputs), **more})


async def test_health_and_metadata(bench):
    assert await ask(bench, "GET", "/v2/health/live") == (200, {"live": True})
    assert await ask(bench, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert await ask(bench, "GET", "/v2/models/double/ready") == (200, {"name": "double", "ready": True})
    assert (await ask(bench, "GET", "/v2"))[1]["name"] == "isochrone"
    _, model = await ask(bench, "GET", "/v2/models/double")
    assert model["versions"] == ["fp32", "int8"]
    assert model["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    assert [output["name"] for output in model["outputs"]] == ["y", "n"]


async def test_a_draining_worker_is_live_but_not_ready(bench):
    bench.batcher.draining = True
    assert (await ask(bench, "GET", "/v2/health/live"))[0] == 200
    assert (await ask(bench, "GET", "/v2/health/ready"))[0] == 503
    assert (await ask(bench, "GET", "/v2/models/double/ready"))[0] == 503


async def test_inference_in_the_protocols_shape(bench):
    status, reply = await infer(bench, X, K, id="r1")
    assert status == 200
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("double", "fp32", "r1")
    assert reply["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 5.0, 6.0, 8.0]},
        {"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [8, 9]},
    ]


async def test_nested_data_and_chosen_outputs(bench):
    _, reply = await infer(bench, X | {"data": [[1, 2.5], [3, 4]]}, K, outputs=[{"name": "n"}])
    assert [output["name"] for output in reply["outputs"]] == ["n"]


async def test_the_version_is_the_variant_and_the_header_wins(bench):
    path = "/v2/models/double/versions/int8/infer"
    assert (await infer(bench, X, K, path=path))[1]["model_version"] == "int8"
    _, reply = await ask(bench, "POST", path, {"inputs": [X, K]}, **{"x-isochrone-variant": "fp32"})
    assert reply["model_version"] == "fp32"
    assert (await infer(bench, X, K, path="/v2/models/double/versions/9/infer"))[0] == 404


async def test_a_large_batch_is_run_in_pieces_and_put_together_again():
    engine = Doubler()
    rows = 11
    x = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": np.arange(2 * rows).tolist()}
    k = {"name": "k", "shape": [rows, 1], "datatype": "INT64", "data": list(range(rows))}
    async with serving(tensor_entry(engine)) as bench:
        _, reply = await infer(bench, x, k)
    assert engine.batches == [4, 4, 3]
    assert reply["outputs"][0]["shape"] == [rows, 2]
    assert reply["outputs"][0]["data"] == [2.0 * n for n in range(2 * rows)]


async def test_requests_of_several_clients_share_a_batch():
    engine = Doubler()
    engine.gate.clear()
    async with serving(tensor_entry(engine)) as bench:
        asked = [asyncio.ensure_future(infer(bench, X, K))]
        await until(lambda: bench.batcher.runners["double:fp32"].running)
        asked += [asyncio.ensure_future(infer(bench, X, K)) for _ in range(2)]
        await until(lambda: len(bench.batcher.queue) == 2)
        engine.gate.set()
        replies = await asyncio.gather(*asked)
    assert engine.batches == [2, 4]
    assert all(status == 200 for status, _ in replies)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([X], "input 'k' is missing"),
        ([X, K, K], "input 'k' is given twice"),
        ([X, K, X | {"name": "z"}], "input 'z' is unknown: the model takes x, k"),
        ([X | {"datatype": "FP64"}, K], "input 'x' must be FP32, not 'FP64'"),
        ([X | {"shape": [2, 3]}, K], "input 'x' must have shape [-1, 2] (-1: any size from 1), not [2, 3]"),
        ([X | {"shape": [4]}, K], "input 'x' must have shape"),
        ([X | {"shape": [0, 2], "data": []}, K], "input 'x' must have shape"),
        ([X | {"shape": [-2, -2]}, K], "input 'x' must have shape"),
        ([X | {"data": [1, 2, 3]}, K], "input 'x' has 3 numbers in `data`, its shape [2, 2] means 4"),
        ([X | {"data": [[1, 2], [3]]}, K], "input 'x' has `data` whose nesting is ragged"),
        ([X | {"data": ["a", "b", "c", "d"]}, K], "input 'x' has `data` that is not FP32"),
        ([X | {"data": [None, 1, 2, 3]}, K], "input 'x' has `data` that is not FP32"),
        ([X | {"data": [1e39, 1, 2, 3]}, K], "input 'x' has a number in `data` that FP32 cannot hold"),
        ([X, K | {"data": [1.5, 2]}], "input 'k' has `data` that is not INT64"),
        ([X, K | {"data": [2**63, 1]}], "input 'k' has `data` that is not INT64"),
        ([X, K | {"data": [2**70, 1]}], "input 'k' has `data` that is not INT64"),
        ([X, K | {"shape": [1, 1], "data": [1]}], "inputs have different batches"),
        ([X | {"parameters": {"binary_data_size": 16}}, K], "input 'x' has no `binary_data_size` bytes"),
        ([X | {"data": None}, K], "input 'x' has neither `data` nor"),
        ([X | {"data": [666, 1, 2, 3]}, K], "input 'x' holds 666"),
    ],
)
async def test_what_is_wrong_with_a_tensor_is_said_by_its_name(bench, inputs, says):
    status, reply = await infer(bench, *inputs)
    assert status == 400
    assert says in reply["error"]


async def test_other_mistakes_are_refused_too(bench):
    status, reply = await infer(bench, X, K, outputs=[{"name": "w"}])
    assert (status, reply["param"]) == (400, "outputs")
    assert "output 'w' is unknown: the model gives y, n" in reply["error"]
    assert (await infer(bench, X, K, path="/v2/models/echo/infer"))[0] == 400
    assert (await infer(bench, {"name": "x"}, K))[1]["param"] == "inputs[0]"
    for length in ("9", "-1", "9999"):
        status, _ = await ask(
            bench, "POST", "/v2/models/double/infer", {"inputs": [X, K]}, **{"inference-header-content-length": length}
        )
        assert status == 400


def packed(*raw, **head):
    """A body of the binary extension: the JSON's length, and the JSON with the bytes behind it."""
    json = orjson.dumps(head)
    return str(len(json)), b"".join((json, *raw))


async def send(bench, length, body):
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{bench.url}/v2/models/double/infer", data=body, headers={"inference-header-content-length": length}
        ) as reply,
    ):
        return reply.status, reply.headers, await reply.read()


XB = {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
KB = {"name": "k", "shape": [2, 1], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
X_BYTES = np.array([1, 2.5, 3, 4], "<f4").tobytes()
K_BYTES = np.array([7, 8], "<i8").tobytes()


async def test_tensors_as_bytes_both_ways(bench):
    given = packed(X_BYTES, K_BYTES, inputs=[XB, KB], parameters={"binary_data_output": True})
    status, headers, body = await send(bench, *given)
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    end = int(headers["inference-header-content-length"])
    assert [output["parameters"] for output in orjson.loads(body[:end])["outputs"]] == [{"binary_data_size": 16}] * 2
    assert np.frombuffer(body[end : end + 16], "<f4").tolist() == [2.0, 5.0, 6.0, 8.0]
    assert np.frombuffer(body[end + 16 :], "<i8").tolist() == [8, 9]


async def test_bytes_and_json_may_be_mixed_tensor_by_tensor(bench):
    wanted = [{"name": "n", "parameters": {"binary_data": True}}, {"name": "y"}]
    _, headers, body = await send(bench, *packed(X_BYTES, inputs=[XB, K], outputs=wanted))
    end = int(headers["inference-header-content-length"])
    n, y = orjson.loads(body[:end])["outputs"]
    assert "data" not in n
    assert np.frombuffer(body[end:], "<i8").tolist() == [8, 9]
    assert y["data"] == [2.0, 5.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (packed(X_BYTES, inputs=[XB, KB]), "input 'k' has no `binary_data_size` bytes"),
        (packed(X_BYTES, K_BYTES, b"x", inputs=[XB, KB]), "1 bytes behind the JSON belong to no input"),
        (packed(X_BYTES, inputs=[XB | {"shape": [1, 2]}, K]), "has 16 bytes in `binary data`"),
    ],
)
async def test_bytes_that_do_not_fit_are_refused(bench, given, says):
    status, _, body = await send(bench, *given)
    assert status == 400
    assert says in orjson.loads(body)["error"]


def test_half_precision_travels_as_json_numbers():
    assert numbers(np.array([[0.5], [2.0]], np.float16)).tolist() == [0.5, 2.0]
    assert numbers(np.array([0.5], np.float16)).dtype == np.float32
