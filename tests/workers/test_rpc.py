import asyncio
import contextlib
from typing import NamedTuple

import grpc
import grpc.aio
import numpy as np
import pytest

from policies.records import Timings, decode_timings
from policies.reports import decode_report
from tests.workers.fakes import Bench, Doubler, serving, tensor_entry, text_entry, until
from workers import rpc
from workers.catalog import Catalog
from workers.engines import TensorSpec
from workers.http import MAX_BODY
from workers.proto import messages, refusals
from workers.queue import Job

X = np.array([[1, 2.5], [3, 4]], np.float32)
K = np.array([[7], [8]], np.int64)


class Rig(NamedTuple):
    """A worker in this process, its gRPC side, and a channel to that."""

    bench: Bench
    server: rpc.RpcServer
    channel: grpc.aio.Channel

    def call(self, method, request, **options):
        kind = {
            "request_serializer": lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            "response_deserializer": getattr(messages, f"{method}Response").FromString,
        }
        return self.channel.unary_unary(f"/{messages.INFERENCE}/{method}", **kind)(request, **options)

    async def refused(self, request, method="ModelInfer", **options):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, **options)
        return caught.value


@contextlib.asynccontextmanager
async def rigged(*entries, **options):
    async with serving(*entries, **options) as bench:
        server = rpc.RpcServer(Catalog(entries), bench.batcher, bench.gauges)
        port = await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)]) as channel:
            try:
                yield Rig(bench, server, channel)
            finally:
                await server.close()


@pytest.fixture
async def rig():
    async with rigged(tensor_entry(), tensor_entry(variant="int8"), text_entry()) as rig:
        yield rig


def raw(x=X, k=K, **more):
    request = messages.ModelInferRequest(model_name="double", **more)
    for name, value, datatype in (("x", x, "FP32"), ("k", k, "INT64")):
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return request


def typed(x=X, k=K, **more):
    request = messages.ModelInferRequest(model_name="double", **more)
    first = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    first.contents.fp32_contents.extend(x.ravel().tolist())
    second = request.inputs.add(name="k", datatype="INT64", shape=k.shape)
    second.contents.int64_contents.extend(k.ravel().tolist())
    return request


def reason(error):
    """The code that HTTP clients know, and the field at fault."""
    status = messages.Status.FromString(dict(error.trailing_metadata())[refusals.DETAILS])
    info = messages.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, info.metadata.get("param")


# What it answers.


async def test_health_and_metadata(rig):
    assert (await rig.call("ServerLive", messages.ServerLiveRequest())).live
    assert (await rig.call("ServerReady", messages.ServerReadyRequest())).ready
    assert (await rig.call("ModelReady", messages.ModelReadyRequest(name="double"))).ready
    assert (await rig.call("ServerMetadata", messages.ServerMetadataRequest())).name == "isochrone"
    model = await rig.call("ModelMetadata", messages.ModelMetadataRequest(name="double", version="int8"))
    assert list(model.versions) == ["fp32", "int8"]
    assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs] == [
        ("x", "FP32", [-1, 2]),
        ("k", "INT64", [-1, 1]),
    ]
    assert [output.name for output in model.outputs] == ["y", "n"]


async def test_tensors_as_bytes(rig):
    reply = await rig.call("ModelInfer", raw(id="r1"))
    assert (reply.model_name, reply.model_version, reply.id) == ("double", "fp32", "r1")
    assert [(o.name, o.datatype, list(o.shape)) for o in reply.outputs] == [
        ("y", "FP32", [2, 2]),
        ("n", "INT64", [2, 1]),
    ]
    y, n = reply.raw_output_contents
    assert (np.frombuffer(y, np.float32).reshape(2, 2) == X * 2).all()
    assert np.frombuffer(n, np.int64).tolist() == [8, 9]


async def test_typed_tensors_are_answered_typed(rig):
    reply = await rig.call("ModelInfer", typed())
    assert not reply.raw_output_contents
    assert list(reply.outputs[0].contents.fp32_contents) == [2.0, 5.0, 6.0, 8.0]
    assert list(reply.outputs[1].contents.int64_contents) == [8, 9]


async def test_outputs_that_were_asked_for(rig):
    request = raw()
    request.outputs.add(name="n")
    assert [output.name for output in (await rig.call("ModelInfer", request)).outputs] == ["n"]


async def test_the_version_is_the_variant_and_the_metadata_wins(rig):
    request = raw(model_version="int8")
    assert (await rig.call("ModelInfer", request)).model_version == "int8"
    reply = await rig.call("ModelInfer", request, metadata=[("x-isochrone-variant", "fp32")])
    assert reply.model_version == "fp32"


async def test_trailing_metadata_says_where_the_time_went_and_what_the_load_is(rig):
    asked = [("endpoint-load-metrics-format", "JSON"), ("x-request-id", "mine")]
    call = rig.call("ModelInfer", raw(), metadata=asked)
    await call
    trailers = dict(await call.trailing_metadata())
    assert decode_timings(trailers["server-timing"].encode()) != Timings()
    assert decode_report(trailers["endpoint-load-metrics"].encode()).arrived == 1
    assert trailers["x-request-id"] == "mine"
    call = rig.call("ModelInfer", raw())
    await call
    assert "endpoint-load-metrics" not in dict(await call.trailing_metadata())


async def test_half_precision_is_always_bytes():
    half = TensorSpec("h", "FP16", (-1,))
    reply = rpc.written(
        typed(),
        rpc.Call("i", 0.0, 1.0, ""),
        {"h": np.array([0.5], np.float16)},
        tensor_entry()._replace(outputs=(half,)),
    )
    assert reply.raw_output_contents == [np.array([0.5], np.float16).tobytes()]


# What it refuses.


@pytest.mark.parametrize(
    ("request_", "says", "param"),
    [
        (raw(x=X.astype(np.float64)), "input 'x' has 32 bytes in `raw_input_contents`", "inputs[0]"),
        (typed(x=X.reshape(4, 1)), "input 'x' must have shape [-1, 2]", "inputs[0]"),
        (typed(k=K[:1]), "inputs have different batches", "inputs"),
        (messages.ModelInferRequest(model_name="double"), "input 'x' is missing", "inputs"),
        (typed(x=np.float32([[666, 1], [2, 3]])), "input 'x' holds 666", None),
    ],
)
async def test_what_is_wrong_with_a_tensor_is_said_by_its_name(rig, request_, says, param):
    error = await rig.refused(request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in error.details()
    assert reason(error) == ("bad_request", param)


async def test_contents_of_the_wrong_kind_are_refused(rig):
    request = typed()
    request.raw_input_contents.append(b"")
    assert "2 inputs and 1 of their contents" in (await rig.refused(request)).details()
    request.raw_input_contents.append(b"")
    assert "has `contents` beside the raw ones" in (await rig.refused(request)).details()
    request = typed()
    del request.inputs[0].contents.fp32_contents[:]
    request.inputs[0].contents.fp64_contents.extend([1, 2, 3, 4])
    assert "0 numbers in `fp32_contents`" in (await rig.refused(request)).details()
    assert "is FP16" in rpc.Sent(messages.ModelInferRequest().inputs.add(datatype="FP16")).array(np.dtype(np.float16))


async def test_names_that_nobody_serves(rig):
    error = await rig.refused(messages.ModelInferRequest(model_name="nobody"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, ("model_not_found", "model"))
    assert dict(error.trailing_metadata())["x-isochrone-executed"] == "0"
    error = await rig.refused(messages.ModelReadyRequest(name="nobody"), "ModelReady")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = await rig.refused(messages.ModelMetadataRequest(name="double", version="9"), "ModelMetadata")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = await rig.refused(messages.ModelInferRequest(model_name="echo"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message(rig):
    error = await rig.refused(b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "These bytes are no inference.ModelInferRequest."


async def test_a_method_that_is_not_ours(rig):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.channel.unary_unary(f"/{messages.INFERENCE}/ModelStreamInfer")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_above_the_limit_is_refused_unread(rig):
    rows = MAX_BODY // 8 + 1
    error = await rig.refused(raw(np.zeros((rows, 2), np.float32), np.zeros((rows, 1), np.int64)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_engine_that_breaks_is_our_fault_and_was_executed(rig):
    error = await rig.refused(raw(x=np.float32([[999, 1], [2, 3]])))
    assert (error.code(), reason(error)[0]) == (grpc.StatusCode.INTERNAL, "internal_error")
    assert "x-isochrone-executed" not in dict(error.trailing_metadata())


async def test_a_fault_of_ours_is_an_internal_error(rig, monkeypatch):
    monkeypatch.setattr(rpc, "read_inputs", lambda request: 1 / 0)
    error = await rig.refused(raw())
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "The worker failed.")


async def test_a_draining_worker_refuses_and_its_health_says_so(rig):
    watch = rig.channel.unary_stream(
        f"/{messages.HEALTH}/Watch",
        request_serializer=messages.HealthCheckRequest.SerializeToString,
        response_deserializer=messages.HealthCheckResponse.FromString,
    )(messages.HealthCheckRequest())
    assert (await watch.read()).status == 1
    rig.bench.batcher.draining = True
    rig.server.drain()
    assert (await watch.read()).status == 2
    watch.cancel()
    assert not (await rig.call("ServerReady", messages.ServerReadyRequest())).ready
    assert not (await rig.call("ModelReady", messages.ModelReadyRequest(name="double"))).ready
    error = await rig.refused(raw())
    assert (error.code(), reason(error)[0]) == (grpc.StatusCode.UNAVAILABLE, "draining")
    trailers = dict(error.trailing_metadata())
    assert (trailers["x-isochrone-executed"], trailers["retry-after"]) == ("0", "1")


# Deadlines and clients that leave.


@pytest.mark.parametrize("name", ["x-deadline-ms", "x-envoy-expected-rq-timeout-ms"])
async def test_a_deadline_in_the_metadata_drops_what_still_waits(name):
    engine = Doubler()
    engine.gate.clear()
    async with rigged(tensor_entry(engine)) as rig:
        ahead = rig.call("ModelInfer", raw())
        await until(lambda: rig.bench.batcher.runners["double:fp32"].running)
        late = asyncio.ensure_future(rig.refused(raw(), metadata=[(name, "20")]))
        await until(lambda: len(rig.bench.batcher.queue) == 1)
        await asyncio.sleep(0.03)
        engine.gate.set()
        error = await late
        await ahead
    assert (error.code(), reason(error)[0]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
    assert dict(error.trailing_metadata())["x-isochrone-executed"] == "0"
    assert engine.batches == [2]


async def test_grpcs_own_deadline_ends_a_call_and_its_jobs():
    engine = Doubler()
    engine.gate.clear()
    async with rigged(tensor_entry(engine)) as rig:
        ahead = rig.call("ModelInfer", raw())
        await until(lambda: rig.bench.batcher.runners["double:fp32"].running)
        error = await rig.refused(raw(), timeout=0.05)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: len(rig.bench.batcher.queue) == 0)
        engine.gate.set()
        await ahead
    assert engine.batches == [2]


async def test_a_call_that_its_client_cancels_leaves_the_queue():
    engine = Doubler()
    engine.gate.clear()
    async with rigged(tensor_entry(engine)) as rig:
        ahead = rig.call("ModelInfer", raw())
        await until(lambda: rig.bench.batcher.runners["double:fp32"].running)
        given_up = rig.call("ModelInfer", raw())
        await until(lambda: len(rig.bench.batcher.queue) == 1)
        assert rig.server.in_flight == 2
        given_up.cancel()
        await until(lambda: len(rig.bench.batcher.queue) == 0)
        engine.gate.set()
        await ahead
        await rig.server.idle()
    assert engine.batches == [2]


def test_the_nearer_of_two_deadlines_counts():
    call = rpc.Call("i", 10.0, 10.5, "")
    assert rpc.sooner(call, None).deadline == 10.5
    assert rpc.sooner(call, 0.2).deadline == pytest.approx(10.2)
    assert rpc.sooner(call, 0.9).deadline == 10.5
    assert rpc.sooner(call, -1.0).deadline == 10.0
    assert rpc.sooner(call._replace(deadline=float("inf")), 1e9).deadline == float("inf")


async def test_a_deadline_that_is_no_number_is_refused(rig):
    error = await rig.refused(raw(), metadata=[("x-deadline-ms", "soon")])
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ("bad_request", "x-deadline-ms"))


async def test_a_port_that_is_taken_is_an_oserror(rig):
    port = int(rig.bench.port)
    with pytest.raises(OSError, match="cannot listen for gRPC"):
        await rpc.RpcServer(Catalog([]), rig.bench.batcher, rig.bench.gauges).start("127.0.0.1", port)


async def test_a_queue_that_was_thought_much_shorter_is_refused_early():
    async with rigged(tensor_entry(), executing=False) as rig:
        now = rig.bench.batcher.clock()
        ahead = [Job("double:fp32", None, arrived=now, deadline=now, items=4) for _ in range(40)]
        assert rig.bench.batcher.queue.push(ahead)
        error = await rig.refused(raw(), metadata=[("x-deadline-ms", "500"), ("x-isochrone-wait-ms", "1")])
        assert reason(error)[0] == "deadline_exceeded"
        assert dict(error.trailing_metadata())["x-isochrone-executed"] == "0"
