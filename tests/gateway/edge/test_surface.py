"""Paths: who reads a body, and what is told about the fleet."""

from __future__ import annotations

import pytest

from gateway import oip
from gateway.edge import surface
from gateway.openai import requests
from policies.reason import Reason
from policies.request import Shed
from tests.fleets import router, worker


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        (b"/v1/chat/completions", requests.read),
        (b"/v1/anything", requests.read),
        (b"/v2/models/m/infer", oip.read),
        (b"/v3/x", None),
        (b"/healthz", None),
        (b"/", None),
    ],
)
def test_readers(path: bytes, reader: object) -> None:
    assert surface.reader(path) is reader


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (b"/v1/models", b'"object":"list"'),
        (b"/v1/models/chat", b'"id":"chat"'),
        (b"/v1/models/none", Reason.MODEL_NOT_FOUND),
        (b"/v1/embeddings", Reason.METHOD_NOT_ALLOWED),
        (b"/v2", b"isochrone"),
        (b"/v2/models/none", Reason.MODEL_NOT_FOUND),
        (b"/metrics", Reason.NOT_FOUND),
    ],
)
def test_gets(path: bytes, told: bytes | Reason) -> None:
    answer = surface.inform(path, router(worker("a")).fleet)
    if isinstance(told, Reason):
        assert isinstance(answer, Shed)
        assert answer.reason is told
    else:
        assert isinstance(answer, bytes)
        assert told in answer
