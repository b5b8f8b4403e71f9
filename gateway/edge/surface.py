"""Which surface a path belongs to: who reads its body, and what a GET of it is answered from the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gateway import oip
from gateway.body import Body
from gateway.openai import models, requests
from policies.reason import Reason
from policies.request import Shed

if TYPE_CHECKING:
    from policies.fleet import Fleet

OPENAI, OIP = b"/v1/", b"/v2/"
CARDS = b"/v1/models/"


def reader(path: bytes) -> Callable[[bytes, bytes], Body | Shed] | None:
    """Who reads the body of a POST to `path`; None when nobody does."""
    if path.startswith(OPENAI):
        return requests.read
    return oip.read if path.startswith(OIP) else None


def inform(path: bytes, fleet: Fleet) -> bytes | Shed:
    """The JSON a GET is answered with; no worker is asked."""
    if path == b"/v1/models":
        return models.listing(fleet)
    if path.startswith(CARDS):
        return models.card(unquote(path[len(CARDS) :].decode()), fleet)
    if path == b"/v2" or path.startswith(OIP):
        return oip.metadata(path, fleet)
    return Shed(Reason.METHOD_NOT_ALLOWED if path.startswith(OPENAI) else Reason.NOT_FOUND)
