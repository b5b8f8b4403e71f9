"""Accepts gRPC clients: `inference.GRPCInferenceService` and `grpc.health.v1`, on a port of their own.

Inference is an exchange (rpc_call.py); what is asked about server and models is answered here, from what the fleet has
registered. A task per call is what grpc.aio costs. Of the gate's rules those hold that mean something here: HTTP/2 has
no framing to smuggle in, grpc has checked names and values, and `:authority` is not looked at, since no browser speaks
gRPC without a proxy that would say its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
import grpc.aio

from gateway import oip
from gateway.auth import Client
from gateway.edge import gate, peer
from gateway.edge.gate import Head
from gateway.edge.listener import DRAINING
from gateway.edge.plane import Plane
from gateway.edge.rpc_call import RpcAnswer, RpcCall, RpcExchange, Unhurried
from gateway.openai import headers
from policies.reason import Reason
from policies.request import Shed
from workers.proto import listening, messages, refusals
from workers.proto.health import Health

if TYPE_CHECKING:
    from gateway.config import Limits
    from gateway.edge.ending import Ending

log = logging.getLogger(__name__)

EVERY_HOST: gate.Hosts = frozenset()
JITTER = 0.02
"""Seconds by which a client may see its deadline before we do: its message came as late as its leaving does, give or
take how the way there varies."""
KEEP_ALIVE_MS = 30_000
"""How long a client may be silent before it is asked whether it is still there."""
HEADS = 256
"""Distinct metadata remembered: 8 MiB of the largest. Clients that number their requests in it gain nothing."""
NO_HEAD = Head(b"POST", oip.RPC, "2", [])
"""Of a call whose metadata did not pass."""


def options(limits: Limits) -> listening.Options:
    """What one connection or call may take; a reload does not change it."""
    return (
        *listening.options(limits.body_bytes, limits.head_bytes),
        ("grpc.max_connection_idle_ms", int(limits.idle_s * 1e3)),
        ("grpc.max_concurrent_streams", limits.pipelined),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEP_ALIVE_MS // 3),
    )


class RpcListener:
    """One listening port, and the calls that came by it."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._health = Health(self._serves)
        self._server = grpc.aio.server(options=options(plane.limits), maximum_concurrent_rpcs=plane.limits.connections)
        self._heads: dict[Any, Head] = {}
        """By metadata, as judged by..."""
        self._limits = plane.limits
        self._calls = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.port = 0
        asked: dict[str, tuple[Any, Callable[[Any], Any | Shed]]] = {
            "ServerLive": (messages.ServerLiveRequest, self._live),
            "ServerReady": (messages.ServerReadyRequest, self._ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self._metadata),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata),
        }
        served = {name: self._served(self._informed(kind, say)) for name, (kind, say) in asked.items()}
        served["ModelInfer"] = self._served(self._infer)
        inference = grpc.method_handlers_generic_handler(messages.INFERENCE, served)
        self._server.add_generic_rpc_handlers((inference, self._health.handlers()))

    def __repr__(self) -> str:
        return f"<RpcListener port {self.port} calls {self._calls}>"

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self.port = await listening.listen(self._server, host, port)

    async def drain(self, seconds: float) -> bool:
        """Refuse what comes, let what has begun finish; whether it did within `seconds`."""
        self._plane.draining = True
        self._health.changed()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End everything now."""
        await self._server.stop(None)

    def _serves(self) -> bool:
        return not self._plane.draining and bool(self._plane.router.fleet.models())

    # One call.

    def _served(self, answer: Callable[[RpcCall], Awaitable[RpcAnswer]]) -> grpc.RpcMethodHandler:
        """A method: whose call it is, its answer, and how that is delivered."""

        async def serve(raw: bytes, context: Any) -> bytes:
            self._calls += 1
            self._empty.clear()
            try:
                call = self._admit(raw, context)
                said = self._refused(call) if isinstance(call, Shed) else await answer(call)
            finally:
                self._calls -= 1
                if self._calls == 0:
                    self._empty.set()
            if said.code:
                await context.abort(refusals.CODES[said.code], said.message[: refusals.MAX_MESSAGE], said.trailers)
            context.set_trailing_metadata(said.trailers)
            return said.content

        return grpc.unary_unary_rpc_method_handler(serve)

    def _admit(self, raw: bytes, context: Any) -> RpcCall | Shed:
        """The call, when its metadata and its sender pass."""
        plane = self._plane
        arrived = plane.clock()
        head = self._head(context.invocation_metadata())
        if isinstance(head, Reason):
            return Shed(head)
        address, named = address_of(context.peer()), head.named
        loopback = peer.is_loopback(address)
        client = plane.keys.client(named.get(b"authorization"), loopback, named.get(b"x-api-key"))
        if isinstance(client, Shed):
            return client
        if plane.draining:
            return DRAINING
        return self._call(head, raw, client, address, arrived, context.time_remaining())

    def _head(self, metadata: Any) -> Head | Reason:
        """The metadata, judged. Clients repeat it, and a head remembers what was made of it."""
        limits = self._plane.limits
        if limits is not self._limits:
            self._limits = limits
            self._heads.clear()
        head = self._heads.get(metadata)
        if head is None:
            fields = [(name.encode(), value.encode()) for name, value in metadata if isinstance(value, str)]
            head = Head(b"POST", oip.RPC, "2", fields)
            reason = gate.repeats(head, limits, EVERY_HOST) or gate.sizes(head, limits, EVERY_HOST)
            if reason is not None:
                return reason
            if len(self._heads) >= HEADS:
                self._heads.clear()
            self._heads[metadata] = head
        return head

    def _call(
        self, head: Head, raw: bytes, client: Client, address: str, arrived: float, left: float | None
    ) -> RpcCall | Shed:
        call = RpcCall(head, raw, client, address, arrived, keep=False, left=left)
        return call.identify(self._plane) or call

    def _refused(self, shed: Shed, request_id: str = "") -> RpcAnswer:
        """The answer to what is no exchange."""
        plane = self._plane
        plane.telemetry.refused(shed.reason)
        request_id = request_id or headers.make_id(plane.rng)
        answer = RpcAnswer(Unhurried(), NO_HEAD, keep=False, id=request_id)
        answer.refuse(shed, attempts=0)
        plane.telemetry.finished(answer.status, 0.0)
        return answer

    async def _infer(self, call: RpcCall) -> RpcAnswer:
        plane = self._plane
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(exchange: Ending, now: float) -> None:
            if not ended.done():
                ended.set_result(None)

        exchange = RpcExchange(plane, call, answered)
        try:
            exchange.start()
        except Exception:
            log.exception("%r failed", exchange)
            exchange.broke()
        try:
            await ended
        except asyncio.CancelledError:
            self._left(exchange)
            raise
        return exchange.answer

    def _left(self, exchange: RpcExchange) -> None:
        """The client listens no more: it has cancelled, or its deadline has passed, which is not its choice."""
        request = exchange.call.request
        late = request is not None and self._plane.clock() >= request.deadline - JITTER
        exchange.cancel(Reason.DEADLINE_EXCEEDED if late else Reason.CLIENT_GONE)

    # What is asked about server and models.

    def _informed(self, kind: Any, say: Callable[[Any], Any | Shed]) -> Callable[[RpcCall], Awaitable[RpcAnswer]]:
        """A method that is answered from memory."""

        async def inform(call: RpcCall) -> RpcAnswer:
            try:
                found = say(kind.FromString(call.raw))
            except messages.DecodeError:
                found = Shed(Reason.BAD_REQUEST, f"These bytes are no {kind.DESCRIPTOR.full_name}.")
            if isinstance(found, Shed):
                return self._refused(found, call.id)
            answer = RpcAnswer(Unhurried(), call.head, keep=False, id=call.id)
            answer.whole(200, b"\r\nx-request-id: " + call.id.encode(), found.SerializeToString())
            self._plane.telemetry.finished(answer.status, self._plane.clock() - call.arrived)
            return answer

        return inform

    def _live(self, request: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    def _ready(self, request: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._serves())

    def _metadata(self, request: Any) -> Any:
        return messages.ServerMetadataResponse(name="isochrone", version=oip.version())

    def _model_ready(self, request: Any) -> Any | Shed:
        found = oip.model(request.name, request.version, self._plane.router.fleet, grpc=True)
        return found if isinstance(found, Shed) else messages.ModelReadyResponse(ready=True)

    def _model_metadata(self, request: Any) -> Any | Shed:
        found = oip.model(request.name, request.version, self._plane.router.fleet, grpc=True)
        if isinstance(found, Shed):
            return found
        said = messages.ModelMetadataResponse(name=found.name, versions=found.versions, platform=found.platform)
        for specs, told in ((found.inputs, said.inputs), (found.outputs, said.outputs)):
            for spec in specs:
                told.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return said


def address_of(place: str) -> str:
    """The IP address in what grpc calls a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`; "" for any other."""
    kind, _, rest = unquote(place).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
