"""What would be decided for a request now. What was decided for an earlier one is in `ring.py`.

A request to be explained goes through the very code of the data plane (header table, body reader, routes, router);
only the reservation and the forwarding are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from gateway import oip
from gateway.auth import Client
from gateway.edge import surface
from gateway.edge.plane import Plane
from gateway.geo import claimed
from gateway.openai import headers
from policies.explain import Explanation
from policies.explain import explain as explain_decision
from policies.reason import Reason
from policies.request import Shed

CLIENT = Client("admin")
"""On whose behalf a request is explained: nobody's limits but the route's."""
GUESSES = (
    ("messages", "/v1/chat/completions"),
    ("prompt", "/v1/completions"),
    ("model_name", oip.RPC.decode()),
    ("inputs", "/v2/models/{model}/infer"),
)
"""A field of the body that tells the surface it belongs to."""

Fields = Sequence[tuple[bytes, bytes]]


class Asking(NamedTuple):
    """A client's request as far as routing reads it."""

    path: bytes
    fields: Fields
    raw: bytes


class Described(msgspec.Struct, forbid_unknown_fields=True):
    """A request described in a body of its own, for those who don't want to send the real one."""

    body: dict[str, Any]
    path: str = ""
    headers: dict[str, str | int | float] = {}


def understand(path: str, fields: Fields, raw: bytes) -> Asking | Shed:
    """Take a description `{path, headers, body}`, or the request itself; a missing path is told from the body."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Shed(Reason.INVALID_JSON)
    if not isinstance(document, dict):
        return Shed(Reason.INVALID_JSON)
    if isinstance(document.get("body"), dict) and "model" not in document:
        try:
            described = msgspec.convert(document, Described)
        except msgspec.ValidationError as error:
            return Shed(Reason.BAD_REQUEST, str(error))
        named = {str(name).lower().encode(): str(value).encode() for name, value in described.headers.items()}
        content = orjson.dumps(described.body)
        return Asking((described.path or path or guess(described.body)).encode(), list(named.items()), content)
    return Asking((path or guess(document)).encode(), fields, raw)


def guess(body: dict[str, Any]) -> str:
    """The path a body most likely belongs to."""
    for field, path in GUESSES:
        if field in body:
            return path.format(model=body.get("model", ""))
    return "/v1/embeddings"


def explain(plane: Plane, asking: Asking, address: str) -> Explanation | Shed:
    """Decide for a request without reserving anything."""
    asked = headers.parse(asking.fields)
    if isinstance(asked, Shed):
        return asked
    read = oip.read_described if asking.path == oip.RPC else surface.reader(asking.path)
    if read is None:
        return Shed(Reason.NOT_FOUND)
    body = read(asking.path, asking.raw)
    if isinstance(body, Shed):
        return body
    now = plane.clock()
    request = plane.routes.request(
        asked=asked,
        body=body,
        arrived=now,
        request_id=asked.request_id or "explain",
        client=CLIENT,
        country=plane.locator.locate(address, claimed(asking.fields)).country,
        raw=asking.raw,
    )
    return request if isinstance(request, Shed) else explain_decision(plane.router, request, now)
