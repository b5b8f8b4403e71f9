"""A gateway's gRPC front in this process: workers of tests/workers/fakes.py behind it, a channel before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np

from gateway.auth import LOCAL
from gateway.config import GatewayConfig
from gateway.edge.rpc import RpcPools
from gateway.edge.rpc_listener import RpcListener
from gateway.edge.upstream import Pools
from gateway.routes import Routes
from policies.records import Curve, TensorSpec
from policies.request import LoadSeen, RoundTrip, Shed, WorkerGone, WorkerSeen
from tests.fakes import FakeKeys
from tests.fleets import endpoint, load, worker
from tests.playbook import Edge
from tests.workers.fakes import Bench, Doubler, serving, tensor_entry
from workers.catalog import Catalog
from workers.proto import messages, refusals
from workers.rpc import RpcServer

MODEL = "double"
DOUBLE = endpoint(
    model=MODEL,
    curve=Curve(base=0.001, item=0.0001),
    max_batch=4,
    inputs=(TensorSpec("x", "FP32", (-1, 2)), TensorSpec("k", "INT64", (-1, 1))),
    outputs=(TensorSpec("y", "FP32", (-1, 2)),),
)
X, K = np.float32([[1, 2.5]]), np.int64([[7]])


class Node(NamedTuple):
    """A worker and what it is known by."""

    engine: Doubler
    bench: Bench
    server: RpcServer
    record: Any


class Front(NamedTuple):
    """A gateway, its listener, and a channel to that."""

    edge: Edge
    listener: RpcListener
    channel: grpc.aio.Channel
    nodes: dict[str, Node]

    def infer(self, request: Any = None, **options: Any) -> Any:
        return self.call("ModelInfer", infers() if request is None else request, **options)

    def call(self, method: str, request: Any, **options: Any) -> Any:
        return self.channel.unary_unary(
            f"/{messages.INFERENCE}/{method}",
            request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )(request, **options)

    async def refused(self, request: Any = None, method: str = "ModelInfer", **options: Any) -> grpc.aio.AioRpcError:
        try:
            await self.call(method, infers() if request is None else request, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("it was answered")


def infers(model: str = MODEL, x: Any = X, k: Any = K, **more: Any) -> Any:
    request = messages.ModelInferRequest(model_name=model, **more)
    for name, value, datatype in (("x", x, "FP32"), ("k", k, "INT64")):
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return request


def code(error: grpc.aio.AioRpcError) -> str:
    """The code that HTTP clients know."""
    status = messages.Status.FromString(dict(error.trailing_metadata())[refusals.DETAILS])
    info = messages.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


class Local(FakeKeys):
    """Whoever does not send the bad key is of this machine."""

    def client(self, *sent: Any) -> Any:
        refused = super().client(*sent)
        return refused if isinstance(refused, Shed) else LOCAL


@contextlib.asynccontextmanager
async def node(name: str, price: float = 1.0, **fields: Any) -> AsyncIterator[Node]:
    engine = Doubler()
    entry = tensor_entry(engine)
    async with serving(entry) as bench:
        server = RpcServer(Catalog([entry]), bench.batcher, bench.gauges)
        port = await server.start("127.0.0.1", 0)
        address = fields.pop("grpc_address", f"127.0.0.1:{port}")
        fields.setdefault("endpoints", (DOUBLE,))
        record = worker(
            name, address=f"127.0.0.1:{bench.port}", usd_per_hour=price, boot="boot", grpc_address=address, **fields
        )
        bench.gauges.worker_id = name
        try:
            yield Node(engine, bench, server, record)
        finally:
            engine.gate.set()
            await server.close()


@contextlib.asynccontextmanager
async def fronted(*nodes: Node) -> AsyncIterator[Front]:
    loop = asyncio.get_running_loop()
    edge = Edge("")
    plane = edge.plane
    routes = Routes(GatewayConfig())
    plane.routes, plane.keys = routes, Local()
    edge.router._policies.update(routes.policies())
    plane.clock = edge.wheel._clock = loop.time
    edge.wheel._cursor = int(loop.time() / edge.wheel._width)
    plane.upstream = Pools(edge.wheel, loop.time)
    plane.rpc = RpcPools(edge.wheel, loop.time, plane.telemetry.count)
    edge.wheel.start(loop)
    for each in nodes:
        edge.router.observe(WorkerSeen(each.record), loop.time())
        edge.router.observe(RoundTrip(each.record.id, 0.001), loop.time())
        edge.router.observe(LoadSeen(load(each.record.id, boot="boot"), 0.0), loop.time())
    listener = RpcListener(plane)
    await listener.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{listener.port}", [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            yield Front(edge, listener, channel, {each.record.id: each for each in nodes})
    finally:
        await listener.close()
        await plane.rpc.close()
        plane.upstream.close()
        edge.wheel.stop()


def forget(front: Front, *names: str) -> None:
    for name in names:
        front.edge.router.observe(WorkerGone(name), front.edge.plane.clock())


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event of ours says it
            await asyncio.sleep(0.002)
