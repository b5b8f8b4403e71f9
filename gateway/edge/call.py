"""One client's request: what it is made of, and what it turns out to ask for.

A call is made of a whole request that has passed the gate; `understand` reads it once, into the router's `Request` or
a refusal. Nothing here touches a socket. exchange.py carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway import oip
from gateway.auth import Client
from gateway.body import Body, Kind
from gateway.edge import surface
from gateway.edge.gate import Head
from gateway.openai import headers, requests
from gateway.openai.headers import NOTHING, Asked
from policies.reason import Reason
from policies.request import Request, Shed

if TYPE_CHECKING:
    from gateway.edge.plane import Plane
    from gateway.routes import Plan
    from policies.node import Node

TENSOR = Kind.TENSOR


class Call(msgspec.Struct, gc=False, eq=False):
    """Head and body as sent, who sent them and when; then id, wishes, body fields and the request made of them."""

    head: Head
    raw: bytes
    client: Client
    peer: str
    arrived: float
    """When its first byte came."""
    keep: bool
    """Whether the client wants the connection kept."""
    rtt: float = 0.0
    """The client's own round trip, where it is measured. Seconds."""
    id: str = ""
    asked: Asked = NOTHING
    body: Body | None = None
    generates: bool = False
    """Whether its answer grows with generated tokens."""
    plan: Plan | None = None
    request: Request | None = None
    """Set by `understand`, when it is not refused."""
    nearest: bytes | None = None
    """The gateways the client should rather use, as `x-gateway-nearest` says it."""

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.head.method.decode()} {len(self.raw)} bytes>"

    def identify(self, plane: Plane) -> Shed | None:
        """Read the headers: every answer needs the id, be it a refusal of these headers."""
        head = self.head
        asked = head.asked
        if asked is None:
            head.asked = asked = headers.parse(head.fields)
        if isinstance(asked, Shed):
            self.id = headers.make_id(plane.rng)
            return asked
        self.asked = asked
        self.id = asked.request_id or headers.make_id(plane.rng)
        return None

    def read(self) -> Body | Shed:
        """What routing uses of the body."""
        head, raw = self.head, self.raw
        read = surface.reader(head.path)
        if read is oip.read and oip.HEADER_LENGTH in head.named:
            return oip.read(head.path, raw, head.named[oip.HEADER_LENGTH])
        return Shed(Reason.NOT_FOUND) if read is None else read(head.path, raw)

    def understand(self, plane: Plane) -> Request | Shed:
        """Read the body, find the client, and merge all with the route's defaults."""
        head, routes = self.head, plane.routes
        body = self.read()
        if isinstance(body, Shed):
            return body
        self.body = body
        self.generates = body.kind.generates
        place = plane.locator.locate(self.peer, head.forwarded)
        self.nearest = plane.steering.header(place)
        plan = head.plan
        if plan is None or not plan.suits(routes, body, place.country):
            made = routes.plan(self.asked, body, self.client, place.country)
            if isinstance(made, Shed):
                return made
            head.plan = plan = made
        self.plan = plan
        self.request = request = plan.request(body, self.id, self.arrived, self.rtt, self.raw)
        return request

    def answered(self, tokens: int | None) -> None:
        """The answer is complete, and had so many tokens, if anybody knows."""
        if tokens is not None and self.plan is not None and self.body is not None:
            self.plan.answered(self.body, tokens)

    def addressed(self, node: Node) -> tuple[bytes, bytes]:
        """Target and body as this node's worker wants them: by its engine's own name for the model, if it has one."""
        body = self.body
        assert body is not None
        served_name = None if node.worker.variant_header else node.endpoint.served_name
        if body.kind is TENSOR:
            return oip.upstream_path(self.head.target, served_name), self.raw
        return self.head.target, requests.rewrite(self.raw, body, served_name)
