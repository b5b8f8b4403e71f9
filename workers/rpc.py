"""The worker's gRPC side: `inference.GRPCInferenceService` and `grpc.health.v1`, on a port of their own.

The same queue and batcher as REST's, the same checks (tensors.py), the same metadata by the same names (http.py).
gRPC's own deadline counts beside the one in the metadata: the nearer of the two. A client that cancels, or whose
deadline passes, cancels its call's task, and with it the jobs it waits for. Where the time went and what the load is
travel as trailing metadata. Messages are read here, not by grpc, so that bytes that are none are the client's mistake.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
from multidict import CIMultiDict

from policies.reason import TABLE, Reason
from policies.records import EXECUTED_HEADER, TIMING_HEADER, Timings
from policies.reports import REPORT_HEADER
from workers import tensors
from workers.batcher import Batcher
from workers.catalog import TENSOR, Catalog, Entry
from workers.gauges import Gauges
from workers.http import MAX_BODY, MAX_DEADLINE_MS, Call, read_headers, unexecuted
from workers.proto import messages, refusals
from workers.proto.health import Health
from workers.proto.listening import listen, options
from workers.queue import Refused, bad
from workers.refusal import answers
from workers.timings import timings

log = logging.getLogger(__name__)

MAX_METADATA = 32 << 10
"""Bytes: the gateways' own limit of a head (faults.md 3.3)."""

TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Which field of `contents` holds a datatype's elements; half precision has none and travels as bytes only."""

Reply = Any
"""A message to send."""


class Answered(NamedTuple):
    """An answer, and where its time went."""

    message: Reply
    timings: Timings | None = None


class Sent(tensors.Part):
    """An input of a message."""

    __slots__ = ()

    def array(self, dtype: np.dtype[Any]) -> np.ndarray | str:
        if self.raw is not None:
            return tensors.from_bytes(self.raw, self.shape, dtype, "raw_input_contents")
        field = TYPED.get(self.datatype)
        if field is None:
            return "is FP16, which has no typed contents: send it in `raw_input_contents`"
        given = getattr(self.tensor.contents, field)
        return tensors.shaped(np.array(given) if given else np.empty(0, dtype), self.shape, dtype, field)


Answer = Callable[[Any, Call], Awaitable[Answered | Refused]]


class RpcServer:
    """Listens on one port and answers every call, with a message or a refusal."""

    def __init__(self, catalog: Catalog, batcher: Batcher, gauges: Gauges) -> None:
        self.in_flight = 0
        self._catalog = catalog
        self._batcher = batcher
        self._gauges = gauges
        self._idle = asyncio.Event()
        self._idle.set()
        self._health = Health(lambda: not batcher.draining)
        self._server = grpc.aio.server(options=options(MAX_BODY, MAX_METADATA))
        methods: dict[str, tuple[Any, Answer]] = {
            "ServerLive": (messages.ServerLiveRequest, self._live),
            "ServerReady": (messages.ServerReadyRequest, self._ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self._metadata),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (messages.ModelInferRequest, self._infer),
        }
        served = {
            name: grpc.unary_unary_rpc_method_handler(self._served(request, answer))
            for name, (request, answer) in methods.items()
        }
        inference = grpc.method_handlers_generic_handler(messages.INFERENCE, served)
        self._server.add_generic_rpc_handlers((inference, self._health.handlers()))

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which matters when 0 was asked for. Raises OSError when it cannot be had."""
        return await listen(self._server, host, port)

    def drain(self) -> None:
        """Tell those who watch our health; the batcher refuses what still comes."""
        self._health.changed()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()

    async def close(self) -> None:
        await self._server.stop(None)

    def _served(self, request: Any, answer: Answer) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """One method: metadata and message read, answered, and the answer or refusal written."""

        async def serve(raw: bytes, context: Any) -> bytes:
            fields = CIMultiDict(
                (name, value) for name, value in context.invocation_metadata() if isinstance(value, str)
            )
            call = read_headers(fields, self._batcher.clock())
            if isinstance(call, Refused):
                return await self._refuse(context, call)
            self.in_flight += 1
            self._idle.clear()
            try:
                reply = await self._answered(request, raw, answer, sooner(call, context.time_remaining()))
            finally:
                self.in_flight -= 1
                if self.in_flight == 0:
                    self._idle.set()
            if isinstance(reply, Refused):
                return await self._refuse(context, reply, call)
            context.set_trailing_metadata(self._trailers(call, reply.timings))
            return reply.message.SerializeToString()

        return serve

    async def _answered(self, request: Any, raw: bytes, answer: Answer, call: Call) -> Answered | Refused:
        try:
            message = request.FromString(raw)
        except messages.DecodeError:
            return Refused(Reason.BAD_REQUEST, f"These bytes are no {request.DESCRIPTOR.full_name}.")
        try:
            return await answer(message, call)
        except Exception:
            log.exception("a call failed")
            return Refused(Reason.INTERNAL, "The worker failed.", executed=True)

    async def _refuse(self, context: Any, refused: Refused, call: Call | None = None) -> bytes:
        """End a call with a status, the error's code in its details."""
        message = refused.message or TABLE[refused.reason].message
        wait = self._gauges.load().backlog or 0.0
        said = refusals.trailers(refused.reason, message, refused.param, wait)
        if unexecuted(refused):
            said += ((EXECUTED_HEADER, "0"),)
        if call is not None:
            said += self._trailers(call, None)
        await context.abort(refusals.status(refused.reason), message[: refusals.MAX_MESSAGE], said)
        raise AssertionError("abort raises")

    def _trailers(self, call: Call, spent: Timings | None) -> refusals.Trailers:
        found: refusals.Trailers = (("x-request-id", call.id),)
        if spent is not None:
            found += ((TIMING_HEADER, spent.encode()),)
        if call.reports:
            found += ((REPORT_HEADER, self._gauges.report(spent)),)
        return found

    # The methods.

    async def _live(self, request: Any, call: Call) -> Answered | Refused:
        return Answered(messages.ServerLiveResponse(live=True))

    async def _ready(self, request: Any, call: Call) -> Answered | Refused:
        return Answered(messages.ServerReadyResponse(ready=not self._batcher.draining))

    async def _metadata(self, request: Any, call: Call) -> Answered | Refused:
        return Answered(messages.ServerMetadataResponse(name="isochrone", version="2"))

    async def _model_ready(self, request: Any, call: Call) -> Answered | Refused:
        entry = self._catalog.find(request.name, call.variant or request.version, TENSOR)
        if isinstance(entry, Refused):
            return entry
        return Answered(messages.ModelReadyResponse(ready=not self._batcher.draining))

    async def _model_metadata(self, request: Any, call: Call) -> Answered | Refused:
        entry = self._catalog.find(request.name, call.variant or request.version, TENSOR)
        if isinstance(entry, Refused):
            return entry
        reply = messages.ModelMetadataResponse(name=entry.endpoint.model, platform="isochrone")
        reply.versions.extend(self._catalog.models[entry.endpoint.model])
        for specs, described in ((entry.inputs, reply.inputs), (entry.outputs, reply.outputs)):
            for spec in specs:
                described.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return Answered(reply)

    async def _infer(self, request: Any, call: Call) -> Answered | Refused:
        entry = self._catalog.find(request.model_name, call.variant or request.model_version, TENSOR)
        if isinstance(entry, Refused):
            return entry
        outputs = tensors.chosen([wanted.name for wanted in request.outputs], entry)
        if isinstance(outputs, Refused):
            return outputs
        sent = read_inputs(request)
        feeds = sent if isinstance(sent, Refused) else tensors.read_feeds(sent, entry)
        if isinstance(feeds, Refused):
            return feeds
        jobs = tensors.jobs(feeds, entry, call.arrived, call.deadline)
        results = await answers(self._batcher, jobs, call.expected_wait)
        if isinstance(results, Refused):
            return results
        values = {name: tensors.joined(name, results) for name in outputs}
        return Answered(written(request, call, values, entry), timings(jobs))


def sooner(call: Call, remaining: float | None) -> Call:
    """The call with the nearer of its deadlines: the metadata's, or gRPC's own, of which `remaining` seconds are left
    (None without one; grpc knows an infinite one only as a very long time)."""
    if remaining is None or remaining * 1e3 > MAX_DEADLINE_MS:
        return call
    return call._replace(deadline=min(call.deadline, call.arrived + max(remaining, 0.0)))


def read_inputs(request: Any) -> list[Sent] | Refused:
    """The inputs with their bytes: of every one, or of none."""
    raw = request.raw_input_contents
    if not raw:
        return [Sent(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        message = f"there are {len(request.inputs)} inputs and {len(raw)} of their contents: give one for each"
        return bad(message, "raw_input_contents")
    for i, tensor in enumerate(request.inputs):
        if tensor.HasField("contents"):
            return bad(f"input {tensor.name!r:.80} has `contents` beside the raw ones", f"inputs[{i}]")
    return [Sent(tensor, content) for tensor, content in zip(request.inputs, raw, strict=True)]


def written(request: Any, call: Call, values: dict[str, np.ndarray], entry: Entry) -> Reply:
    """The answer, in the form the inputs came in; as bytes where one of the outputs has no other."""
    reply = messages.ModelInferResponse(
        model_name=entry.endpoint.model, model_version=entry.endpoint.variant, id=request.id or call.id
    )
    kinds = {name: tensors.datatype(name, entry) for name in values}
    raw = bool(request.raw_input_contents) or any(kind not in TYPED for kind in kinds.values())
    for name, value in values.items():
        output = reply.outputs.add(name=name, datatype=kinds[name], shape=value.shape)
        if raw:
            reply.raw_output_contents.append(value.tobytes())
        else:
            getattr(output.contents, TYPED[kinds[name]]).extend(value.reshape(-1).tolist())
    return reply
