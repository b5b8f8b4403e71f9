"""What a request turns out to ask for, and how it is put to a worker."""

from __future__ import annotations

from typing import Any

from gateway.edge.call import Call
from gateway.edge.gate import Head
from policies.reason import Reason
from policies.request import Request, Shed
from tests.fakes import FakeKeys, FakePlan
from tests.fleets import endpoint, router, worker
from tests.playbook import CHAT, Edge


def call(raw: bytes = CHAT, *fields: tuple[bytes, bytes], path: bytes = b"/v1/chat/completions") -> Call:
    head = Head(b"POST", path, "1.1", list(fields))
    return Call(head, raw, FakeKeys().client(None, True), "10.1.1.1", 5.0, keep=True)


def test_headers_and_body_become_one_request() -> None:
    edge, made = Edge("a"), call(CHAT, (b"x-deadline-ms", b"500"), (b"x-request-id", b"r-1"))
    assert made.identify(edge.plane) is None
    request = made.understand(edge.plane)
    assert isinstance(request, Request)
    assert (request.id, request.model, request.arrived, request.deadline) == ("r-1", "chat", 5.0, 5.5)
    assert made.request is request
    assert edge.places.asked == [("10.1.1.1", None)]
    assert repr(made) == "<Call r-1 POST 60 bytes>"


def test_the_clients_round_trip_is_handed_on() -> None:
    edge, made = Edge("a"), call(CHAT, (b"x-deadline-ms", b"500"))
    made.rtt = 0.1
    made.identify(edge.plane)
    request = made.understand(edge.plane)
    assert isinstance(request, Request)
    assert request.deadline == 5.4


def test_refused_headers_get_an_id_nevertheless() -> None:
    made = call(CHAT, (b"x-deadline-ms", b"soon"))
    shed = made.identify(Edge("a").plane)
    assert isinstance(shed, Shed)
    assert shed.reason is Reason.BAD_REQUEST
    assert len(made.id) == 32


def test_what_headers_ask_is_read_once_per_head() -> None:
    edge, first = Edge("a"), call(CHAT, (b"x-deadline-ms", b"500"))
    first.identify(edge.plane)
    second = Call(first.head, CHAT, FakeKeys().client(None, True), "10.1.1.1", 6.0, keep=True)
    second.identify(edge.plane)
    assert second.asked is first.asked


def refusal(raw: bytes, **given: Any) -> Reason:
    made, edge = call(raw, **given), Edge("a")
    made.identify(edge.plane)
    shed = made.understand(edge.plane)
    assert isinstance(shed, Shed)
    return shed.reason


def test_refusals() -> None:
    assert refusal(b"[]") is Reason.INVALID_JSON
    assert refusal(CHAT, path=b"/other") is Reason.NOT_FOUND


def test_a_tensors_bytes_behind_the_json_are_not_read() -> None:
    json = b'{"inputs":[{"shape":[2]}]}'
    length = (b"inference-header-content-length", b"%d" % len(json))
    body = call(json + b"\xff\xff", length, path=b"/v2/models/chat/infer").read()
    assert not isinstance(body, Shed)
    assert (body.items, body.bytes) == (2, len(json) + 2)
    plain = call(json + b"\xff\xff", path=b"/v2/models/chat/infer").read()
    assert isinstance(plain, Shed)


def test_a_foreign_engine_is_spoken_to_by_its_own_names() -> None:
    foreign = worker("f", variant_header=False, endpoints=(endpoint(served_name="org/M"),))
    ours = worker("o")
    [node] = router(foreign).fleet.nodes()
    [own] = router(ours).fleet.nodes()
    chat, edge = call(), Edge("a")
    chat.identify(edge.plane)
    chat.understand(edge.plane)
    assert chat.addressed(node) == (b"/v1/chat/completions", CHAT.replace(b'"chat"', b'"org/M"'))
    assert chat.addressed(own)[1] is chat.raw
    tensor = call(b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}', path=b"/v2/models/chat/infer")
    tensor.identify(edge.plane)
    tensor.understand(edge.plane)
    assert tensor.addressed(node) == (b"/v2/models/org%2FM/infer", tensor.raw)
    assert tensor.addressed(own) == (b"/v2/models/chat/infer", tensor.raw)


def test_an_answers_length_goes_to_the_plan() -> None:
    edge, made = Edge("a"), call()
    made.identify(edge.plane)
    made.understand(edge.plane)
    made.answered(None)
    made.answered(7)
    assert isinstance(made.plan, FakePlan)
    assert made.plan.answers == [7]
