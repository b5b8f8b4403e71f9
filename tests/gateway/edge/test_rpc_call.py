"""What a gRPC request is made of and how its answer is written, without a socket; rpc_listener's test sends them."""

from __future__ import annotations

import msgspec
import pytest

from gateway.auth import LOCAL
from gateway.body import Body, Kind
from gateway.edge.gate import Head
from gateway.edge.rpc_call import RpcAnswer, RpcCall, Unhurried
from gateway.oip import MAX_ITEMS, MAX_NAME
from policies.reason import TABLE, Reason
from policies.request import Shed
from tests.fleets import endpoint, router, worker
from tests.gateway.edge.rpcs import infers
from tests.playbook import Edge
from workers.proto import refusals
from workers.proto.messages import ErrorInfo, ModelInferRequest, Status


def call(raw: bytes, left: float | None = None, **fields: str) -> RpcCall:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    head = Head(b"POST", b"/inference.GRPCInferenceService/ModelInfer", "2", named)
    return RpcCall(head, raw, LOCAL, "127.0.0.1", 10.0, keep=False, left=left)


def test_routing_reads_the_model_its_version_and_the_batch() -> None:
    request = infers("m", model_version="int8")
    request.inputs[0].shape[0] = 7
    raw = request.SerializeToString()
    body = call(raw).read()
    assert body == Body(kind=Kind.TENSOR, model="m", bytes=len(raw), items=7, variants=("int8",), grpc=True)
    scalar = call(ModelInferRequest(model_name="m").SerializeToString()).read()
    assert isinstance(scalar, Body)
    assert (scalar.items, scalar.variants) == (1, ())


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xff\xff", b"", infers("n" * (MAX_NAME + 1)).SerializeToString(),
     ModelInferRequest(model_name="m", inputs=[{"shape": [MAX_ITEMS + 1]}]).SerializeToString()],
)  # fmt: skip
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    read = call(raw).read()
    assert isinstance(read, Shed)
    assert read.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    ("left", "header", "deadline"),
    [(None, None, None), (0.5, None, 0.5), (0.5, "200", 0.2), (0.2, "500", 0.2), (None, "500", 0.5)],
)
def test_the_nearer_of_grpcs_deadline_and_the_metadatas_counts(
    left: float | None, header: str | None, deadline: float | None
) -> None:
    edge = Edge()
    asked = call(infers("chat").SerializeToString(), left, **({"x_deadline_ms": header} if header else {}))
    assert asked.identify(edge.plane) is None
    request = asked.understand(edge.plane)
    assert not isinstance(request, Shed)
    assert asked.request is request
    assert request.deadline == (float("inf") if deadline is None else pytest.approx(10.0 + deadline))


def test_the_bytes_are_the_clients_unless_the_engine_has_another_name_for_the_model() -> None:
    raw = infers("m", id="i").SerializeToString()
    long = "org/" + "n" * 200
    for fields, name in (
        ({}, "m"),
        ({"variant_header": False}, "m"),
        ({"variant_header": False, "endpoints": (endpoint(served_name=long),)}, long),
        ({"endpoints": (endpoint(served_name=long),)}, "m"),
    ):
        (node,) = router(worker("a", **fields)).fleet.nodes("chat")
        _, sent = call(raw).addressed(node)
        assert sent == raw if name == "m" else sent.startswith(raw)
        message = ModelInferRequest.FromString(sent)
        assert (message.model_name, message.id, len(message.inputs)) == (name, "i", 2)


def answer() -> RpcAnswer:
    return RpcAnswer(Unhurried(), call(b"").head, keep=False, id="r1")


def test_a_message_comes_with_the_heads_lines_as_trailers() -> None:
    said = answer()
    said.whole(200, b"HTTP/1.1 200 OK\r\nx-request-id: r1\r\nServer-Timing: net;dur=1, queue;dur=2", b"message")
    assert (said.status, said.code, said.content) == (200, 0, b"message")
    assert said.trailers == (("x-request-id", "r1"), ("server-timing", "net;dur=1, queue;dur=2"))


def test_a_workers_error_keeps_its_status_and_its_details() -> None:
    told = Status(code=3, message="input 'x' is missing").SerializeToString()
    said = answer()
    said.whole(400, b"HTTP/1.1 400 Bad Request\r\nx-request-id: r1", told)
    assert (said.status, said.code, said.message) == (400, 3, "input 'x' is missing")
    assert said.trailers[-1] == (refusals.DETAILS, told)


def test_a_refusal_of_ours_says_what_http_says() -> None:
    said = answer()
    said.refuse(Shed(Reason.OVERLOADED, "Too many.", "x", retry_after=2.5), attempts=2)
    trailers = dict(said.trailers)
    assert (said.status, said.code) == (503, TABLE[Reason.OVERLOADED].grpc)
    assert said.message == f"{TABLE[Reason.OVERLOADED].message} Too many."
    assert (trailers["x-request-id"], trailers["x-route-attempts"], trailers["retry-after"]) == ("r1", "2", "3")
    info = ErrorInfo()
    assert Status.FromString(trailers[refusals.DETAILS]).details[0].Unpack(info)
    assert (info.reason, info.metadata["param"]) == ("overloaded", "x")


def test_a_client_that_has_left_is_noted_as_over_http() -> None:
    said = answer()
    said.abandon()
    assert said.status == 499
    assert msgspec.structs.asdict(said)["content"] == b""
