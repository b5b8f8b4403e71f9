"""NVIDIA's client of the Open Inference Protocol, HTTP and gRPC, against a worker and against the gateway before it.

It stands in one process with our own messages, which is what those are kept in a pool of their own for.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.client_surfaces.triton import pair

PIXELS = np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 64)
KINDS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def served():
    with pair() as served:
        yield served


@pytest.fixture(params=["worker", "gateway"])
def at(request, served):
    """The process that is spoken to."""
    return served.gateway if request.param == "gateway" else served.workers["w2"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def client(kind, at):
    with KINDS[kind].InferenceServerClient(getattr(at, kind)) as client:
        yield client


def given(module, value=PIXELS, name="pixels", datatype="FP32", **options):
    tensor = module.InferInput(name, list(value.shape), datatype)
    tensor.set_data_from_numpy(value, **options)
    return [tensor]


def probabilities(result):
    return result.as_numpy("probabilities")


def test_health_and_metadata(client, kind):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    server, model = client.get_server_metadata(), client.get_model_metadata("digits")
    if kind == "grpc":
        assert (server.name, model.name, sorted(model.versions)) == ("isochrone", "digits", ["fp32", "int8"])
        assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs] == [("pixels", "FP32", [-1, 64])]
        assert [output.name for output in model.outputs] == ["probabilities"]
    else:
        assert (server["name"], model["name"], sorted(model["versions"])) == ("isochrone", "digits", ["fp32", "int8"])
        assert model["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]


def test_the_same_answer_every_way(served):
    answers = []
    for at in (served.gateway, served.workers["w2"]):
        with tritonclient.grpc.InferenceServerClient(at.grpc) as client:
            answers.append(probabilities(client.infer("digits", given(tritonclient.grpc), model_version="fp32")))
        with tritonclient.http.InferenceServerClient(at.http) as client:
            for binary in (True, False):
                inputs = given(tritonclient.http, binary_data=binary)
                wanted = [tritonclient.http.InferRequestedOutput("probabilities", binary_data=binary)]
                for outputs in (None, wanted):
                    result = client.infer("digits", inputs, model_version="fp32", outputs=outputs)
                    answers.append(probabilities(result))
    for answer in answers:
        assert answer.shape == (2, 10)
        np.testing.assert_allclose(answer, answers[0], rtol=1e-5)


def test_a_version_is_a_variant_and_the_id_comes_back(client, kind):
    module = KINDS[kind]
    for version in ("int8", "fp32"):
        result = client.infer("digits", given(module), model_version=version, request_id="mine")
        said = result.get_response()
        got = (said.model_version, said.id) if kind == "grpc" else (said["model_version"], said["id"])
        assert got == (version, "mine")


@pytest.mark.parametrize(
    ("change", "model", "says"),
    [
        ({"value": PIXELS.astype(np.float64), "datatype": "FP64"}, "digits", "input 'pixels' must be FP32, not 'FP64'"),
        ({"value": PIXELS[:, :63]}, "digits", "input 'pixels' must have shape [-1, 64]"),
        ({"name": "pixel"}, "digits", "input 'pixel' is unknown: the model takes pixels"),
        ({}, "nobody", ""),
    ],
)
def test_mistakes_are_told(client, kind, change, model, says):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, given(KINDS[kind], **change))
    assert says in str(caught.value)
    expected = {"http": "400" if model == "digits" else "404",
                "grpc": f"StatusCode.{'INVALID_ARGUMENT' if model == 'digits' else 'NOT_FOUND'}"}  # fmt: skip
    assert caught.value.status() == expected[kind]


def test_what_is_not_served_is_refused(client):
    with pytest.raises(InferenceServerException):
        client.get_inference_statistics("digits")


def test_a_deadline_that_cannot_be_met(at):
    with tritonclient.grpc.InferenceServerClient(at.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("digits", given(tritonclient.grpc), client_timeout=1e-4)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("digits", given(tritonclient.grpc), headers={"x-deadline-ms": "soon"})
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_call_in_the_background_can_be_cancelled(at):
    heard = []
    with tritonclient.grpc.InferenceServerClient(at.grpc) as client:
        many = given(tritonclient.grpc, np.zeros((20_000, 64), np.float32))
        client.async_infer("digits", many, lambda result, error: heard.append(error)).cancel()
        assert probabilities(client.infer("digits", given(tritonclient.grpc))).shape == (2, 10)


async def test_their_asynchronous_clients(at):
    async with tritonclient.grpc.aio.InferenceServerClient(at.grpc) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(*(client.infer("digits", given(tritonclient.grpc.aio)) for _ in range(8)))
        assert {probabilities(result).shape for result in results} == {(2, 10)}
    async with tritonclient.http.aio.InferenceServerClient(at.http) as client:
        result = await client.infer("digits", given(tritonclient.http.aio))
        assert probabilities(result).shape == (2, 10)
