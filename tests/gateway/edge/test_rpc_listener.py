"""The gRPC front on real sockets, with real workers behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import msgspec
import numpy as np
import pytest

from gateway.edge.rpc_listener import RpcListener, address_of
from gateway.edge.stay import release
from policies.reason import Reason
from policies.request import LoadSeen, WorkerSeen
from tests.fleets import load
from tests.gateway.edge.rpcs import MODEL, Front, Node, code, fronted, infers, node, until
from workers.proto import messages


@pytest.fixture
async def pair() -> AsyncIterator[Front]:
    """Two workers, `a` the cheaper."""
    async with node("a", 1.0) as a, node("b", 5.0) as b, fronted(a, b) as front:
        yield front


def waiting(each: Node) -> bool:
    """Whether a request is at its engine."""
    return bool(each.bench.batcher.runners[f"{MODEL}:fp32"].running)


# What is answered.


async def test_an_inference_goes_to_the_cheapest_node_and_back(pair: Front) -> None:
    call = pair.infer(infers(id="mine"), metadata=[("x-route-explain", "1"), ("x-request-id", "r7")])
    reply = await call
    assert np.frombuffer(reply.raw_output_contents[0], np.float32).tolist() == [2.0, 5.0]
    assert reply.id == "mine"
    trailers = dict(await call.trailing_metadata())
    assert (trailers["x-route-node"], trailers["x-route-variant"], trailers["x-request-id"]) == ("a", "fp32", "r7")
    assert "prefill;dur=" in trailers["server-timing"]
    ((_, outcome),) = pair.edge.outcomes
    assert outcome.prefill is not None, "the worker said where the time went"
    assert pair.edge.telemetry.value("reports.taken") == 1
    assert pair.edge.unreported == 0


async def test_the_workers_get_the_deadline_the_variant_and_the_clients_own_metadata(pair: Front) -> None:
    heard: list[dict[str, str]] = []

    async def infer(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        heard.append(dict(context.invocation_metadata()) | {"left": str(context.time_remaining())})
        return messages.ModelInferResponse(model_name="said").SerializeToString()

    async with listening(infer) as address:
        record = msgspec.structs.replace(pair.nodes["a"].record, grpc_address=address, seq=2)
        pair.edge.router.observe(WorkerSeen(record), 0.0)
        await pair.infer(
            timeout=0.9,
            metadata=[
                ("x-mine", "1"),
                ("x-api-key", "secret"),
                ("x-slo-ttft-ms", "700"),
                ("x-isochrone-variant", "int8"),
            ],
        )
    (got,) = heard
    assert (got["x-mine"], got["x-isochrone-variant"], got["endpoint-load-metrics-format"]) == ("1", "fp32", "JSON")
    assert not got.keys() & {"x-api-key", "host", "content-length"}
    assert 300 < int(got["x-slo-ttft-ms"]) < 700, "what is left of it"
    assert 500 < int(got["x-deadline-ms"]) <= 900
    assert 0.5 < float(got["left"]) <= 1.0, "a little later than ours, which comes first"


async def test_the_message_goes_through_as_it_came(pair: Front) -> None:
    heard: list[bytes] = []

    async def infer(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        heard.append(raw)
        return b"\x0a\x01z" + UNKNOWN

    sent = infers().SerializeToString() + UNKNOWN
    async with listening(infer) as address:
        record = msgspec.structs.replace(pair.nodes["a"].record, grpc_address=address, seq=2)
        pair.edge.router.observe(WorkerSeen(record), 0.0)
        raw = await pair.channel.unary_unary(f"/{messages.INFERENCE}/ModelInfer")(sent)
    assert heard == [sent]
    assert raw == b"\x0a\x01z" + UNKNOWN


UNKNOWN = b"\x82\x7d\x01u"
"""Field 2000, which no message of ours has."""


@contextlib.asynccontextmanager
async def listening(infer: object) -> AsyncIterator[str]:
    """A worker that is only a method."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler(
            messages.INFERENCE, {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
        ),
    ))  # fmt: skip
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_metadata_that_repeats_is_judged_once_per_limits(pair: Front) -> None:
    await pair.infer()
    await pair.infer()
    assert len(pair.listener._heads) == 1
    await pair.infer(metadata=[("x-mine", "1")])
    assert len(pair.listener._heads) == 2
    pair.edge.plane.limits = msgspec.structs.replace(pair.edge.plane.limits, header_count=1)
    error = await pair.refused(metadata=[("x-mine", "1")])
    assert code(error) == "headers_too_large"


async def test_server_and_models_are_described_from_the_registry(pair: Front) -> None:
    assert (await pair.call("ServerLive", messages.ServerLiveRequest())).live
    assert (await pair.call("ServerReady", messages.ServerReadyRequest())).ready
    assert (await pair.call("ServerMetadata", messages.ServerMetadataRequest())).name == "isochrone"
    assert (await pair.call("ModelReady", messages.ModelReadyRequest(name=MODEL))).ready
    model = await pair.call("ModelMetadata", messages.ModelMetadataRequest(name=MODEL))
    assert (model.name, list(model.versions), model.platform) == (MODEL, ["fp32"], "isochrone")
    assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs] == [
        ("x", "FP32", [-1, 2]),
        ("k", "INT64", [-1, 1]),
    ]
    assert [output.name for output in model.outputs] == ["y"]
    for method, request in (
        ("ModelReady", messages.ModelReadyRequest),
        ("ModelMetadata", messages.ModelMetadataRequest),
    ):
        error = await pair.refused(request(name="nobody"), method)
        assert (error.code(), code(error)) == (grpc.StatusCode.NOT_FOUND, "model_not_found")
        error = await pair.refused(request(name=MODEL, version="int4"), method)
        assert error.code() is grpc.StatusCode.NOT_FOUND
    assert not any(each.engine.batches for each in pair.nodes.values())


# What is refused.


async def test_what_is_no_request_for_anybody(pair: Front) -> None:
    error = await pair.refused(infers("nobody"), metadata=[("x-request-id", "r8")])
    assert (error.code(), code(error)) == (grpc.StatusCode.NOT_FOUND, "model_not_found")
    assert dict(error.trailing_metadata())["x-request-id"] == "r8"
    error = await pair.refused(b"\xff\xff\xff")
    assert (error.code(), code(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_request")
    error = await pair.refused(b"\xff\xff\xff", "ModelReady")
    assert "are no inference.ModelReadyRequest" in str(error.details())
    error = await pair.refused(infers(""))
    assert "It names no model" in str(error.details())
    error = await pair.refused(metadata=[("x-deadline-ms", "soon")])
    assert (error.code(), code(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_request")
    error = await pair.refused(metadata=[("authorization", "a"), ("authorization", "b")])
    assert code(error) == "bad_framing"
    error = await pair.refused(metadata=[("authorization", "Bearer bad")])
    assert (error.code(), code(error)) == (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key")
    assert not any(each.engine.batches for each in pair.nodes.values())


async def test_what_grpc_refuses_by_itself(pair: Front) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pair.channel.unary_unary(f"/{messages.INFERENCE}/ModelStreamInfer")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    rows = pair.edge.plane.limits.body_bytes // 8
    error = await pair.refused(infers(x=np.zeros((rows, 2), np.float32)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_workers_no_reaches_the_client_as_it_was_said(pair: Front) -> None:
    error = await pair.refused(infers(x=np.float32([[666, 1]])), metadata=[("x-route-explain", "1")])
    assert (error.code(), error.details(), code(error)) == (
        grpc.StatusCode.INVALID_ARGUMENT, "input 'x' holds 666", "bad_request"
    )  # fmt: skip
    assert dict(error.trailing_metadata())["x-route-node"] == "a"
    ((name, outcome),) = pair.edge.outcomes
    assert (name, outcome.reason, outcome.client_error) == ("a", None, True)


async def test_nodes_without_grpc_are_not_considered_and_the_refusal_says_so() -> None:
    async with node("a", 1.0, grpc_address=None) as a, node("b", 5.0) as b:
        async with fronted(a) as front:
            error = await front.refused()
            assert (error.code(), code(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "no_matching_node")
            assert "only over HTTP: POST it to /v2/models/MODEL/infer" in str(error.details())
            error = await front.refused(messages.ModelReadyRequest(name=MODEL), "ModelReady")
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        async with fronted(a, b) as front:
            await front.infer()
            assert [name for name, _ in front.edge.outcomes] == ["b"]


# Attempts that fail, deadlines, clients that leave.


async def test_a_worker_that_cannot_be_reached_is_replaced(pair: Front) -> None:
    await pair.nodes["a"].server.close()
    call = pair.infer(metadata=[("x-route-explain", "1")])
    await call
    trailers = dict(await call.trailing_metadata())
    assert (trailers["x-route-node"], trailers["x-route-attempts"]) == ("b", "2")
    assert [(name, o.reason, o.executed) for name, o in pair.edge.outcomes] == [
        ("a", Reason.CONNECT_FAILED, False), ("b", None, True)
    ]  # fmt: skip


async def test_a_worker_that_dies_in_mid_call_is_replaced(pair: Front) -> None:
    a = pair.nodes["a"]
    a.engine.gate.clear()
    answer = asyncio.ensure_future(pair.infer())
    await until(lambda: waiting(a))
    await a.server.close()
    await answer
    assert [(name, o.reason) for name, o in pair.edge.outcomes] == [("a", Reason.UPSTREAM_LOST), ("b", None)]


async def test_an_attempt_that_may_have_been_executed_is_not_repeated_where_that_matters() -> None:
    async with node("a") as a, node("b", 5.0) as b, fronted(a, b) as front:
        front.edge.plane.routes.pure = lambda model: False  # type: ignore[method-assign]
        a.engine.gate.clear()
        answer = asyncio.ensure_future(front.refused())
        await until(lambda: waiting(a))
        await a.server.close()
        error = await answer
    assert (error.code(), code(error)) == (grpc.StatusCode.UNAVAILABLE, "bad_upstream_reply")
    assert not b.engine.batches


async def test_a_worker_that_refuses_unexecuted_is_replaced(pair: Front) -> None:
    pair.nodes["a"].bench.batcher.draining = True
    await pair.infer()
    assert [(name, o.reason, o.executed) for name, o in pair.edge.outcomes] == [
        ("a", Reason.REFUSED, False), ("b", None, True)
    ]  # fmt: skip


async def test_an_engine_that_breaks_is_a_workers_failure(pair: Front) -> None:
    error = await pair.refused(infers(x=np.float32([[999, 1]])))
    assert (error.code(), code(error)) == (grpc.StatusCode.INTERNAL, "bad_upstream_reply")
    assert [o.reason for _, o in pair.edge.outcomes] == [Reason.UPSTREAM_ERROR] * 2


async def test_a_deadline_in_the_metadata_ends_it_here(pair: Front) -> None:
    for each in pair.nodes.values():
        each.engine.gate.clear()
    error = await pair.refused(metadata=[("x-deadline-ms", "500")])
    assert (error.code(), code(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
    assert pair.edge.outcomes[-1][1].reason is Reason.DEADLINE_EXCEEDED


async def test_grpcs_own_deadline_is_the_requests(pair: Front) -> None:
    for each in pair.nodes.values():
        each.engine.gate.clear()
    error = await pair.refused(timeout=0.06)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: pair.edge.unreported == 0)
    assert pair.edge.outcomes[-1][1].reason is Reason.DEADLINE_EXCEEDED
    trace = pair.edge.ring.recent(1)[0]
    assert trace.request is not None
    assert trace.request.deadline - trace.request.arrived < 1.0


async def test_a_client_that_cancels_cancels_the_work(pair: Front) -> None:
    a = pair.nodes["a"]
    a.engine.gate.clear()
    ahead = pair.infer()
    await until(lambda: waiting(a))
    given_up = pair.infer()
    await until(lambda: len(a.bench.batcher.queue) == 1)
    given_up.cancel()
    await until(lambda: len(a.bench.batcher.queue) == 0)
    assert pair.edge.outcomes[0][1].reason is Reason.CLIENT_GONE
    a.engine.gate.set()
    await ahead
    assert a.engine.batches == [1]


async def test_a_call_that_nobody_can_take_now_is_held_until_somebody_can(pair: Front) -> None:
    def queue(backlog: float, seq: int) -> None:
        for name in pair.nodes:
            busy = load(name, seq, boot="boot", waiting=int(100 * backlog), running=1, backlog=backlog)
            pair.edge.router.observe(LoadSeen(busy, 0.0), pair.edge.plane.clock())

    queue(60.0, 2)
    asked = [("x-deadline-ms", "20000"), ("x-deadline-policy", "hold")]
    held = pair.infer(metadata=asked)
    await until(lambda: pair.edge.plane.stays)
    given_up = pair.infer(metadata=asked)
    await until(lambda: len(pair.edge.plane.stays) == 2)
    given_up.cancel()
    await until(lambda: len(pair.edge.plane.stays) == 1)
    queue(0.0, 3)
    release(pair.edge.plane, pair.edge.plane.clock())
    await held
    assert not pair.edge.plane.stays
    assert [outcome.reason for _, outcome in pair.edge.outcomes] == [None]


async def test_a_fault_of_ours_is_an_internal_error(pair: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.edge.plane.routes, "plan", lambda *_: 1 / 0)
    error = await pair.refused()
    assert (error.code(), code(error)) == (grpc.StatusCode.INTERNAL, "internal_error")


# Its life.


async def test_draining_refuses_finishes_and_says_so(pair: Front) -> None:
    a = pair.nodes["a"]
    watch = pair.channel.unary_stream(
        f"/{messages.HEALTH}/Watch",
        request_serializer=messages.HealthCheckRequest.SerializeToString,
        response_deserializer=messages.HealthCheckResponse.FromString,
    )(messages.HealthCheckRequest(service=messages.INFERENCE))
    assert (await watch.read()).status == 1
    a.engine.gate.clear()
    begun = asyncio.ensure_future(pair.infer())
    await until(lambda: waiting(a))
    drain = asyncio.ensure_future(pair.listener.drain(5.0))
    assert (await watch.read()).status == 2
    error = await pair.refused()
    assert (error.code(), code(error)) == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert not drain.done()
    a.engine.gate.set()
    await begun
    assert await drain
    assert not await hurried(pair)
    watch.cancel()


async def hurried(front: Front) -> bool:
    """A drain that has no time, with a call that does not end."""
    front.edge.plane.draining = False
    front.nodes["a"].engine.gate.clear()
    begun = asyncio.ensure_future(front.infer())
    await until(lambda: waiting(front.nodes["a"]))
    whole = await front.listener.drain(0.05)
    front.nodes["a"].engine.gate.set()
    await begun
    return whole


async def test_an_empty_fleet_is_live_and_not_ready() -> None:
    async with fronted() as front:
        assert (await front.call("ServerLive", messages.ServerLiveRequest())).live
        assert not (await front.call("ServerReady", messages.ServerReadyRequest())).ready


async def test_a_taken_port_is_an_oserror(pair: Front) -> None:
    with pytest.raises(OSError, match=r"cannot listen for gRPC on 127\.0\.0\.1"):
        await RpcListener(pair.edge.plane).start("127.0.0.1", pair.listener.port)


@pytest.mark.parametrize(
    ("place", "address"),
    [("ipv4:127.0.0.1:5000", "127.0.0.1"), ("ipv6:%5B::1%5D:5000", "::1"), ("unix:/run/x", ""), ("", "")],
)
def test_a_peer_is_an_address(place: str, address: str) -> None:
    assert address_of(place) == address


async def test_no_more_connections_than_the_limit() -> None:
    async with fronted() as front:
        limits = msgspec.structs.replace(front.edge.plane.limits, connections=1)
        front.edge.plane.limits = limits
        listener = RpcListener(front.edge.plane)
        await listener.start("127.0.0.1", 0)
        try:
            first, second = (lone(listener.port) for _ in range(2))
            async with first, second:
                live = f"/{messages.INFERENCE}/ServerLive"
                await first.unary_unary(live)(b"")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await second.unary_unary(live)(b"", timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        finally:
            await listener.close()


def lone(port: int) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
