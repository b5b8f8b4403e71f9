"""A request that came by gRPC: what it is made of, how it is answered, and its exchange.

All that is decided about it is exchange.py's and ending.py's, as for HTTP: routing, holding, repeating, hedging,
settling. What differs is here: the body is a ModelInferRequest, the answer a message or a status with trailers, and the
workers are reached by rpc.py. rpc_listener.py makes one per call and waits for its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import oip
from gateway.body import Body
from gateway.edge.answer import Answer
from gateway.edge.call import Call
from gateway.edge.ending import Ending, Watch
from gateway.edge.exchange import Exchange
from gateway.edge.flow import Outlet
from gateway.openai import errors
from policies.reason import TABLE, Reason
from policies.request import INFINITE, Request, Shed
from workers.proto import refusals
from workers.proto.messages import DecodeError, ModelInferRequest, Status

if TYPE_CHECKING:
    from gateway.edge.plane import Plane
    from gateway.edge.upstream import Pool
    from policies.node import Node
    from policies.records import Worker

MODEL_NAME = b"\x0a"
"""The key of field 1, a string, of ModelInferRequest."""
OK = 0


class RpcCall(Call):
    """One ModelInfer of a client; `raw` is the message as it came."""

    left: float | None = None
    """Seconds that gRPC's own deadline leaves, if it has one."""

    def read(self) -> Body | Shed:
        try:
            message = ModelInferRequest.FromString(self.raw)
        except DecodeError:
            return Shed(Reason.BAD_REQUEST, "These bytes are no inference.ModelInferRequest.")
        if not message.model_name or len(message.model_name) > oip.MAX_NAME:
            return Shed(Reason.BAD_REQUEST, f"It names no model (1 to {oip.MAX_NAME} characters).", "model_name")
        shape = message.inputs[0].shape if message.inputs else ()
        return oip.body(message.model_name, message.model_version, shape, len(self.raw), grpc=True)

    def understand(self, plane: Plane) -> Request | Shed:
        """As of HTTP; and gRPC's own deadline, at which the client stops listening, counts like one in the metadata."""
        request = super().understand(plane)
        left = self.left
        if isinstance(request, Shed) or left is None:
            return request
        asked = INFINITE if self.asked.deadline is None else self.asked.deadline
        if left < asked:
            request = self.request = msgspec.structs.replace(request, deadline=self.arrived + left)
        return request

    def addressed(self, node: Node) -> tuple[bytes, bytes]:
        """The message as it came; another name of the model is appended, since the last one of a field counts."""
        served_name = "" if node.worker.variant_header else node.endpoint.served_name
        if not served_name:
            return self.head.target, self.raw
        name = served_name.encode()
        return self.head.target, b"%b%b%b%b" % (self.raw, MODEL_NAME, _varint(len(name)), name)


def _varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    low, number = number & 127, number >> 7
    return bytes((low,)) if not number else bytes((low | 128,)) + _varint(number)


class Unhurried(Outlet):
    """Where a unary answer is left: nothing is written piece by piece, and so nothing can stall."""

    __slots__ = ()

    def __init__(self) -> None:
        self._source = None
        self.paused = self.held_up = False


class RpcAnswer(Answer):
    """What a client gets: a message, or a status with its details."""

    content: bytes = b""
    code: int = OK
    message: str = ""
    trailers: refusals.Trailers = ()

    def whole(self, status: int, fields: bytes, content: bytes) -> None:
        """The worker's answer. `fields` is a head of HTTP, whose lines become trailing metadata; an error's content is
        a google.rpc.Status."""
        self.status = status
        lines = (line.partition(b": ") for line in fields.split(b"\r\n")[1:])
        self.trailers = tuple((name.decode().lower(), value.decode("latin-1")) for name, _, value in lines)
        if status == 200:
            self.content = content
            return
        said: Any = Status.FromString(content)
        self.code, self.message = said.code, said.message
        self.trailers += ((refusals.DETAILS, content),)

    def refuse(self, shed: Shed, attempts: int) -> None:
        """Ours: the same message, code and hints as over HTTP."""
        meaning = TABLE[shed.reason]
        self.status, self.code = meaning.http, int(meaning.grpc)
        self.message = f"{meaning.message} {shed.detail}" if shed.detail else meaning.message
        self.trailers = (
            ("x-request-id", self.id),
            ("x-route-attempts", str(attempts)),
            *refusals.trailers(shed.reason, self.message, shed.param, errors.retry_after(shed)),
        )


class RpcExchange(Exchange):
    """One call. Whoever made it is told of its end, cancels it when the client leaves, and delivers its `answer`."""

    __slots__ = ()

    answer: RpcAnswer

    def __init__(self, plane: Plane, call: RpcCall, answered: Callable[[Ending, float], None]) -> None:
        outlet = Unhurried()
        super().__init__(plane, outlet, Watch(), call, answered)
        self.answer = RpcAnswer(outlet, call.head, keep=False)

    def _pool(self, worker: Worker) -> Pool:
        rpc, address = self._plane.rpc, worker.grpc_address
        assert rpc is not None
        assert address is not None, "only nodes with one are eligible"
        return rpc.of(address)
