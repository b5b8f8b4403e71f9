"""Understanding what is to be explained."""

from __future__ import annotations

import orjson
import pytest

from gateway.control.explain import Asking, guess, understand
from policies.reason import Reason
from policies.request import Shed

BODY = {"model": "m", "messages": []}


def test_a_description_is_unpacked_and_its_headers_are_lower_case() -> None:
    raw = orjson.dumps({"path": "/v1/x", "headers": {"X-Deadline-MS": 50}, "body": BODY})
    assert understand("", [(b"authorization", b"admin's own")], raw) == Asking(
        b"/v1/x", [(b"x-deadline-ms", b"50")], orjson.dumps(BODY)
    )


def test_the_request_itself_is_taken_as_it_is() -> None:
    raw = b' {"model": "m",  "messages": []}'
    fields = [(b"x-deadline-ms", b"50")]
    assert understand("/v1/y", fields, raw) == Asking(b"/v1/y", fields, raw)


def test_a_client_body_with_a_field_called_body_is_no_description() -> None:
    raw = orjson.dumps({"model": "m", "body": {"a": 1}, "input": "x"})
    asking = understand("", [], raw)
    assert isinstance(asking, Asking)
    assert asking.raw == raw


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": []}, "/v1/chat/completions"),
        ({"prompt": ""}, "/v1/completions"),
        ({"model": "m", "inputs": []}, "/v2/models/m/infer"),
        ({"model_name": "m", "inputs": []}, "/inference.GRPCInferenceService/ModelInfer"),
        ({"input": ""}, "/v1/embeddings"),
    ],
)
def test_the_surface_is_told_from_the_body(body: dict[str, object], path: str) -> None:
    assert guess(body) == path


@pytest.mark.parametrize("raw", [b"", b"1", b"[]", b"nope", b"\xff"])
def test_anything_but_an_object_is_refused(raw: bytes) -> None:
    assert understand("", [], raw) == Shed(Reason.INVALID_JSON)


def test_a_misspelt_description_is_named() -> None:
    refused = understand("", [], orjson.dumps({"body": BODY, "header": {}}))
    assert isinstance(refused, Shed)
    assert "header" in refused.detail
