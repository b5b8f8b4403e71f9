"""The control plane's HTTP side: health, metrics, and the operators' questions, on a port of its own.

Every path stands in one table with who may ask it. Refusals have the data plane's JSON shape. A browser is no
operator: requests that carry a foreign `Origin`, or on loopback a foreign `Host`, are refused (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web

from gateway.auth import Keys
from gateway.control.slot import Slot
from gateway.geo import claimed
from gateway.openai import errors
from policies.reason import TABLE, Reason
from policies.request import Shed

log = logging.getLogger(__name__)

MAX_BODY = 16 * 1024 * 1024
"""The data plane's default body limit: what can be sent can be explained."""
IDLE_SECONDS = 60.0
HEADER_SECONDS = 10.0
ANSWER_SECONDS = 10.0
"""For the body to arrive and the answer to be made; every answer comes from memory."""
RECENT = 50
"""Decisions listed when nobody says how many."""
MAX_RECENT = 500
KEY = web.RequestKey("key", str)
"""Id of the operator's key, for the log."""

Answer = Callable[[Slot, web.Request], Awaitable[web.Response]]
KeysNow = Callable[[], Keys]
Connection = web.RequestHandler
Silent = set[Connection]
"""Connections that have not sent a whole request yet."""


class DrainOrder(msgspec.Struct, forbid_unknown_fields=True):
    worker: str
    on: bool = True


class Route(NamedTuple):
    method: str
    path: str
    answer: Answer
    public: bool = False
    """Whether it is answered without an admin key."""


def build(slot: Slot, keys: KeysNow, silent: Silent) -> web.Application:
    """The application; `keys` gives those of the configuration in force, `silent` loses whoever sends a request."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_guard(keys, silent)])
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _bound(route.answer, slot), name=None)
    return app


class Door:
    """The listening side. A connection that sends no whole request in time is closed: aiohttp alone waits for ever."""

    def __init__(self, runner: web.AppRunner, silent: Silent) -> None:
        self.port = 0
        self._runner = runner
        self._server: asyncio.Server | None = None
        self._silent = silent

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, host, port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        factory = self._runner.server
        assert factory is not None
        connection = factory()
        self._silent.add(connection)
        asyncio.get_running_loop().call_later(HEADER_SECONDS, self._expire, connection)
        return connection

    def _expire(self, connection: Connection) -> None:
        if connection in self._silent:
            self._silent.discard(connection)
            if connection.transport is not None:
                connection.transport.abort()


async def serve(slot: Slot, keys: KeysNow, host: str, port: int) -> Door:
    """Listen. Raises OSError."""
    silent: Silent = set()
    runner = web.AppRunner(
        build(slot, keys, silent),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=1.0,
        shutdown_timeout=1.0,
        auto_decompress=False,
    )
    await runner.setup()
    door = Door(runner, silent)
    try:
        await door.open(host, port)
    except OSError:
        await door.close()
        raise
    return door


# The answers.


async def _health(slot: Slot, _request: web.Request) -> web.Response:
    return _json(slot.health())


async def _ready(slot: Slot, _request: web.Request) -> web.Response:
    ready, state = slot.readiness()
    return _json(state, 200 if ready else 503)


async def _metrics(slot: Slot, _request: web.Request) -> web.Response:
    return web.Response(body=slot.metrics(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


async def _nodes(slot: Slot, request: web.Request) -> web.Response:
    return _json({"nodes": slot.nodes(request.query.get("model"))})


async def _signals(slot: Slot, request: web.Request) -> web.Response:
    return _json(slot.signals(request.query.get("model")))


async def _drain(slot: Slot, request: web.Request) -> web.Response:
    try:
        order = msgspec.json.decode(await request.read(), type=DrainOrder)
    except (msgspec.MsgspecError, UnicodeError):
        return refusal(Shed(Reason.BAD_REQUEST, 'Send {"worker": ID, "on": true or false}.'))
    done = await slot.drain(order.worker, order.on)
    if isinstance(done, Shed):
        return refusal(done)
    log.info("drain", extra={"worker": order.worker, "on": order.on, "key": request.get(KEY, "")})
    return _json(done)


async def _steer(slot: Slot, request: web.Request) -> web.Response:
    asked = request.query.get("ip")
    if asked is None:
        return _json(slot.steer(request.remote or "", claimed(_fields(request))))
    try:
        ipaddress.ip_address(asked)
    except ValueError:
        return refusal(Shed(Reason.BAD_REQUEST, "Not an IP address.", "ip"))
    return _json(slot.steer(asked, None))


async def _explain(slot: Slot, request: web.Request) -> web.Response:
    path = request.match_info.get("path", "") or request.query.get("path", "")
    told = slot.explain(path, _fields(request), await request.read(), request.remote or "")
    return refusal(told) if isinstance(told, Shed) else _json(told)


async def _explained(slot: Slot, request: web.Request) -> web.Response:
    told = slot.explained(request.match_info["request_id"])
    return refusal(told) if isinstance(told, Shed) else _json(told)


async def _recent(slot: Slot, request: web.Request) -> web.Response:
    count = request.query.get("n", str(RECENT))
    if not count.isdigit():
        return refusal(Shed(Reason.BAD_REQUEST, "Not a number.", "n"))
    return _json({"decisions": slot.recent(min(int(count), MAX_RECENT))})


ROUTES = (
    Route("GET", "/healthz", _health, public=True),
    Route("GET", "/readyz", _ready, public=True),
    Route("GET", "/metrics", _metrics),
    Route("GET", "/admin/nodes", _nodes),
    Route("GET", "/admin/signals", _signals),
    Route("POST", "/admin/drain", _drain),
    Route("GET", "/admin/steer", _steer),
    Route("POST", "/admin/explain", _explain),
    Route("POST", "/admin/explain{path:/v[12]/.+}", _explain),
    Route("GET", "/admin/explain", _recent),
    Route("GET", "/admin/explain/{request_id:.+}", _explained),
)
"""Everything this port answers. A client pointed at /admin/explain as its base URL gets explanations for answers."""
PUBLIC = frozenset(route.path for route in ROUTES if route.public)


# Who may ask, and how refusals look.


def _guard(keys: KeysNow, silent: Silent) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        silent.discard(request.protocol)
        request_id = f"adm-{secrets.token_hex(8)}"
        try:
            refused = _refused(request, keys())
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = refusal(refused) if refused is not None else await handler(request)
        except TimeoutError:
            answer = refusal(Shed(Reason.REQUEST_TIMEOUT))
            answer.force_close()
        except web.HTTPException as error:
            answer = refusal(Shed(_REASONS.get(error.status, Reason.BAD_REQUEST)))
        except Exception:  # a fault of ours: logged with its id, told without its text
            log.exception("control fault", extra={"request_id": request_id, "path": request.path})
            answer = refusal(Shed(Reason.INTERNAL))
        answer.headers["x-request-id"] = request_id
        return answer

    return guard


_REASONS = {404: Reason.NOT_FOUND, 405: Reason.METHOD_NOT_ALLOWED, 413: Reason.BODY_TOO_LARGE}


def _refused(request: web.Request, keys: Keys) -> Shed | None:
    """Why this request is not answered, if so. The path is the raw one that is served, too."""
    loopback = _is_loopback(request.remote)
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return Shed(Reason.FORBIDDEN, "Not from a page of another origin.")
    resource = request.match_info.route.resource
    if resource is not None and resource.canonical in PUBLIC:
        return None
    known = keys.admin(_bytes(request.headers.get("authorization")), loopback, _bytes(request.headers.get("x-api-key")))
    if isinstance(known, Shed):
        return known
    if known.id == "local" and not _names_this_machine(request.headers.get("host", "")):
        return Shed(Reason.MISDIRECTED)
    request[KEY] = known.id
    return None


def _names_this_machine(host: str) -> bool:
    """Whether a `Host` is a loopback name or a literal address, which no foreign domain can be made to resolve to."""
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(peer: str | None) -> bool:
    return peer is not None and _is_address(peer) and ipaddress.ip_address(peer).is_loopback


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "surrogateescape")


def _fields(request: web.Request) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in request.raw_headers]


def _bound(answer: Answer, slot: Slot) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def bound(request: web.Request) -> web.StreamResponse:
        return await answer(slot, request)

    return bound


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def refusal(shed: Shed) -> web.Response:
    """A refusal in the shape of the data plane's."""
    meaning = TABLE[shed.reason]
    body = errors.body(shed)
    if shed.reason is Reason.NOT_FOUND and shed.detail:  # the path is right, what it names is not there
        body = orjson.dumps(errors.document(shed.reason, shed.detail, shed.param))
    answer = web.Response(body=body, status=meaning.http, content_type="application/json")
    wait = errors.retry_after(shed)
    answer.headers["x-should-retry"] = "true" if meaning.retry or wait is not None else "false"
    if wait is not None:
        answer.headers["retry-after"] = str(wait)
    return answer
