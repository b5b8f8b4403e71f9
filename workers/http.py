"""The worker's HTTP/1.1 side: strict limits, deadlines in, refusals out, health and metrics from memory.

A surface (openai.py, oip.py) registers routes whose answer is a response or a `Refused`; here a refusal is turned into
bytes, with policies/reason.py's table (attach/proxy.py does so for engines of others). A client that leaves cancels its
route's task, and with it the jobs it waits for. app.py starts and drains it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import orjson
from aiohttp import hdrs, web
from multidict import MultiMapping

from policies.reason import TABLE, Reason
from policies.records import (
    DEADLINE_HEADER,
    EXECUTED_HEADER,
    FIRST_DEADLINE_HEADER,
    TIMING_HEADER,
    VARIANT_HEADER,
    WAIT_HEADER,
    Timings,
    encode_load,
)
from policies.reports import REPORT_FORMAT, REPORT_FORMAT_HEADER, REPORT_HEADER
from workers.gauges import Gauges
from workers.queue import Refused

log = logging.getLogger(__name__)

KEEP_ALIVE = 75.0
"""Seconds an idle connection is kept: longer than the gateways' pools keep theirs (60 s), so that the gateway closes
first and never writes into a connection that is just being closed."""
MAX_BODY = 16 << 20
MAX_LINE = 8 << 10
MAX_HEADERS = 100
"""The gateways' own limits (faults.md 3.3): what they pass, a worker takes."""
BODY_SECONDS = 30.0
"""Longest a body may take to arrive from a gateway, which has it whole before it dispatches."""
ENVOY_DEADLINE_HEADER = "x-envoy-expected-rq-timeout-ms"
MAX_DEADLINE_MS = 3_600_000.0
"""Longer deadlines are clamped: nothing here takes an hour."""
REQUEST_ID = re.compile(r"\A[!-~]{1,128}\Z")
_DECIMAL = re.compile(r"\A[0-9]{1,12}(\.[0-9]{1,6})?\Z")
_PATTERN = re.compile(r":[^{}]+\}")
"""What a route demands of a part of its path, which is nothing for a client to read."""

JSON = "application/json"
SPENT = web.ResponseKey("spent", Timings)
"""What an answer cost, for the report beside it."""


class Call(NamedTuple):
    """What the headers of one request say."""

    id: str
    arrived: float
    deadline: float
    variant: str
    """Empty: the first that fits."""
    reports: bool = False
    """Whether the answer is to say what the load is."""
    first_deadline: float = math.inf
    """Of a text's first token."""
    expected_wait: float | None = None
    """Seconds in our queue that the gateway counts on; None: it counts on nothing (refusal.py)."""


Reply = web.StreamResponse | Refused
Answer = Callable[[web.Request, Call], Awaitable[Reply]]


class Route(NamedTuple):
    """One path of a surface."""

    method: str
    path: str
    answer: Answer


def json_reply(call: Call, body: bytes, timings: Timings | None = None) -> web.Response:
    """A whole answer, with where its time went."""
    response = web.Response(body=body, content_type=JSON, headers={"x-request-id": call.id})
    if timings is not None:
        response.headers[TIMING_HEADER] = timings.encode()
        response[SPENT] = timings
    return response


def error_body(refused: Refused, path: str = "") -> dict[str, Any]:
    """OpenAI's error shape; of the Open Inference Protocol, whose `error` is the sentence, the same beside that."""
    meaning = TABLE[refused.reason]
    message = refused.message or meaning.message
    told = {"type": meaning.type, "param": refused.param, "code": meaning.code}
    return {"error": message, **told} if path.startswith("/v2/") else {"error": {"message": message, **told}}


async def read_body(request: web.Request) -> bytes | Refused:
    """The whole body, or why it is not taken."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        return Refused(Reason.UNSUPPORTED_ENCODING)
    if (request.content_length or 0) > MAX_BODY:
        return Refused(Reason.BODY_TOO_LARGE)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        return Refused(Reason.REQUEST_TIMEOUT)


def invalid(error: msgspec.MsgspecError) -> Refused:
    """What msgspec found wrong with a body, in JSON's words, with the field's path as `param`."""
    if not isinstance(error, msgspec.ValidationError):
        return Refused(Reason.INVALID_JSON)
    message, _, path = str(error).partition(" - at `")
    message = _TYPES.sub(lambda found: _JSON_WORDS[found[0]], message)
    return Refused(Reason.BAD_REQUEST, f"{message}.", path.rstrip("`").removeprefix("$").removeprefix(".") or None)


_JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TYPES = re.compile(r"(?<=[` ])(?:str|int|float|bool)(?=[` ])")


def read_headers(headers: MultiMapping[str], now: float) -> Call | Refused:
    """Deadline, variant and request id of a request that arrived at `now`, by its headers or its gRPC metadata."""
    given = headers.get("x-request-id", "")
    request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    seconds: dict[str, float] = {}
    for name in (DEADLINE_HEADER, ENVOY_DEADLINE_HEADER, FIRST_DEADLINE_HEADER, WAIT_HEADER):
        values = headers.getall(name, [])
        if not values:
            continue
        if len(values) > 1 or not _DECIMAL.match(values[0]):
            return Refused(Reason.BAD_REQUEST, f"{name} takes one number of milliseconds, such as 250.", name)
        seconds[name] = min(float(values[0]), MAX_DEADLINE_MS) / 1e3
    budget = seconds.get(DEADLINE_HEADER, seconds.get(ENVOY_DEADLINE_HEADER, math.inf))
    variant, first = headers.get(VARIANT_HEADER, ""), seconds.get(FIRST_DEADLINE_HEADER, math.inf)
    return Call(request_id, now, now + budget, variant, wants_report(headers), now + first, seconds.get(WAIT_HEADER))


def wants_report(headers: MultiMapping[str]) -> bool:
    """Whether the sender asked for the load, in the one form we write."""
    return headers.get(REPORT_FORMAT_HEADER, "").upper() == REPORT_FORMAT


def unexecuted(refused: Refused) -> bool:
    """Whether to say that nothing was executed: only of what another worker could do better."""
    return not refused.executed and (TABLE[refused.reason].http >= 500 or refused.reason is Reason.MODEL_NOT_FOUND)


class Connection(web.RequestHandler):
    """One connection. What the framework refuses before it is a request gets the one error shape too."""

    __slots__ = ("_error",)

    def __init__(self, server: web.Server, error: Callable[[web.BaseRequest, Refused], web.Response]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_ALIVE,
            access_log=None,  # type: ignore[arg-type]  # as its code and documents allow
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        self._error = error

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Bytes that are no HTTP, or a fault of the framework: without the framework's text, which repeats them."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer is on its way already") from exc
        if status < 500:
            log.debug("not a request: %r", message)
            response = self._error(request, Refused(Reason.BAD_FRAMING))
        else:
            log.error("the framework failed", exc_info=exc)
            response = self._error(request, Refused(Reason.INTERNAL, "The worker failed.", executed=True))
        response.force_close()
        return response


class Server:
    """Listens on one port and answers every request, with a reply of a surface or an error body."""

    def __init__(self, routes: Iterable[Route], gauges: Gauges, clock: Callable[[], float]) -> None:
        self.in_flight = 0
        routes = tuple(routes)
        self._served = sorted({_PATTERN.sub("}", route.path) for route in routes if route.method == "POST"})
        self._gauges = gauges
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._shape_errors])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        for route in routes:
            app.router.add_route(route.method, route.path, functools.partial(self._serve, route.answer))
        app.on_response_prepare.append(self._report)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which matters when 0 was asked for."""
        await self._runner.setup()
        assert self._runner.server is not None
        connection = functools.partial(Connection, self._runner.server, self._error)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(connection, host, port, reuse_address=True, backlog=1024)
        return int(self._listener.sockets[0].getsockname()[1])

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    async def _serve(self, answer: Answer, request: web.Request) -> web.StreamResponse:
        """One request of a surface: headers, answer, and a refusal turned into bytes."""
        call = read_headers(request.headers, self._clock())
        if isinstance(call, Refused):
            return self._error(request, call)
        self.in_flight += 1
        self._idle.clear()
        try:
            reply = await answer(request, call)
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()
        return self._error(request, reply, call.id) if isinstance(reply, Refused) else reply

    @web.middleware
    async def _shape_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Give the framework's own refusals and our faults the one error shape."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            served = f"No such path. This worker serves {', '.join(self._served)}."
            return self._error(request, Refused(Reason.NOT_FOUND, served))
        except web.HTTPMethodNotAllowed as error:
            response = self._error(request, Refused(Reason.METHOD_NOT_ALLOWED))
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            return response
        except web.HTTPRequestEntityTooLarge:
            return self._error(request, Refused(Reason.BODY_TOO_LARGE))
        except web.HTTPException as error:
            log.warning("refused by the framework: %s", error)
            return self._error(request, Refused(Reason.BAD_REQUEST))
        except ConnectionError:
            raise  # the client left in mid-answer
        except Exception:
            log.exception("a request failed")
            return self._error(request, Refused(Reason.INTERNAL, "The worker failed.", executed=True))

    def _error(self, request: web.BaseRequest, refused: Refused, request_id: str = "") -> web.Response:
        """A refusal as a response."""
        meaning = TABLE[refused.reason]
        given = request.headers.get("x-request-id", "")
        request_id = request_id or (given if REQUEST_ID.match(given) else uuid.uuid4().hex)
        headers = {"x-request-id": request_id, "x-should-retry": str(meaning.retry).lower()}
        if unexecuted(refused):
            headers[EXECUTED_HEADER] = "0"
        if meaning.waits:
            headers[hdrs.RETRY_AFTER] = str(max(math.ceil(self._gauges.load().backlog or 0.0), 1))
        body = orjson.dumps(error_body(refused, request.path))
        response = web.Response(status=meaning.http, body=body, content_type=JSON, headers=headers)
        if refused.reason in (Reason.BODY_TOO_LARGE, Reason.REQUEST_TIMEOUT):
            response.force_close()  # the rest of the body is still to come
        return response

    async def _report(self, request: web.Request, response: web.StreamResponse) -> None:
        """The head of any answer, a refusal's too, and a stream's as of its first byte, says what the load is."""
        if wants_report(request.headers):
            response.headers[REPORT_HEADER] = self._gauges.report(response.get(SPENT))

    async def _healthz(self, request: web.Request) -> web.Response:
        load = self._gauges.load()
        return web.Response(status=503 if load.draining else 200, body=encode_load(load), content_type=JSON)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._gauges.page(), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4"})
