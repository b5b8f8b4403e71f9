"""`worker attach --proxy`: in the data path of an engine that tells no load, keeps no deadlines and no times.

Counts what waits and runs, drops what expires before the engine sees it, and adds `Server-Timing` and the load report
where the engine's own answer lacks them. Bodies pass as they are, streams event by event; a client that leaves takes
its request at the engine with it. Only POST takes a turn: health and listings pass beside the line.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

import aiohttp
import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from policies.reason import TABLE, Reason
from policies.records import DEADLINE_HEADER, EXECUTED_HEADER, TIMING_HEADER, Load, Timings
from policies.reports import REPORT_HEADER, encode_report, with_cost
from workers.attach import Reading
from workers.attach.events import DONE, Events
from workers.attach.turns import Turn, Turns
from workers.http import (
    KEEP_ALIVE,
    MAX_BODY,
    MAX_HEADERS,
    MAX_LINE,
    Call,
    error_body,
    read_body,
    read_headers,
    unexecuted,
)
from workers.queue import Refused
from workers.timings import comment, load_comment

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
"""The engine is next door."""
IDLE_SECONDS = 2.0
"""How long a connection to the engine is kept: uvicorn, under most of them, closes after 5."""
MAX_WHOLE = 8 << 20
"""Largest answer that is held back until its times are known; a larger one goes on at once, without them."""
HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "host", "content-length", "expect"),
    }
)
"""What concerns one connection only (RFC 9110 7.6.1), and what each side writes anew."""
REASONS = {Turn.EXPIRED: Reason.DEADLINE_EXCEEDED, Turn.FULL: Reason.OVERLOADED}


def session() -> aiohttp.ClientSession:
    """What the engine is spoken to with: as many connections as there are turns, nothing added, nothing unpacked."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        auto_decompress=False,
        skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Proxy:
    """One listening port before one engine."""

    def __init__(
        self,
        engine: aiohttp.ClientSession,
        url: str,
        turns: Turns,
        slots: int,
        load: Callable[[], Load | None],
        changed: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._url = url
        self._turns = turns
        self._slots = slots
        self._load = load
        self._changed = changed
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            shutdown_timeout=1.0,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which matters when 0 was asked for."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    def counts(self) -> Reading:
        """What waits here and what is at the engine."""
        return Reading(self._turns.waiting, self._turns.running)

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):  # the absolute form would name another engine
            return self._refuse(request, Refused(Reason.BAD_REQUEST, "The target is a path."), None)
        if request.method != hdrs.METH_POST:
            return await self._forward(request, b"", None, self._clock())
        call = read_headers(request.headers, self._clock())
        if isinstance(call, Refused):
            return self._refuse(request, call, None)
        body = await read_body(request)
        if isinstance(body, Refused):
            return self._refuse(request, body, call)
        self._idle.clear()
        self._changed.set()
        try:
            turn = await self._turns.take(call.deadline)
            if turn is not Turn.TAKEN:
                return self._refuse(request, Refused(REASONS[turn]), call)
            try:
                return await self._forward(request, body, call, self._clock())
            finally:
                self._turns.leave()
        finally:
            self._left()

    def _left(self) -> None:
        self._changed.set()
        if self._turns.running + self._turns.waiting == 0:
            self._idle.set()

    async def _forward(
        self, request: web.Request, body: bytes, call: Call | None, started: float
    ) -> web.StreamResponse:
        """Ask the engine, and pass on what it says."""
        headers = passed(request.headers)
        if call is not None and call.deadline != math.inf:
            headers[DEADLINE_HEADER] = f"{max(call.deadline - started, 0.0) * 1e3:.3f}"
        url = URL(self._url + request.raw_path, encoded=True)
        try:
            async with self._engine.request(
                request.method, url, data=body or None, headers=headers, allow_redirects=False
            ) as reply:
                try:
                    return await self._answer(request, reply, call, started)
                finally:
                    if not reply.content.at_eof():
                        reply.close()  # the engine sees that nobody listens any more
        except aiohttp.ClientConnectorError:
            return self._refuse(request, Refused(Reason.UPSTREAM_LOST, "The engine does not answer."), call)
        except aiohttp.ClientError as error:
            log.debug("the engine was lost: %r", error)
            if request.writer.output_size > 0:
                raise ConnectionError("the answer is on its way already") from error
            return self._refuse(request, Refused(Reason.UPSTREAM_LOST, executed=True), call)

    async def _answer(
        self, request: web.Request, reply: aiohttp.ClientResponse, call: Call | None, started: float
    ) -> web.StreamResponse:
        headers = passed(reply.headers)
        if call is None:
            return web.Response(status=reply.status, body=await reply.read(), headers=headers)
        if reply.content_type == "text/event-stream":
            return await self._stream(request, reply, call, started)
        whole = bytearray()
        async for chunk in reply.content.iter_any():
            whole += chunk
            if len(whole) > MAX_WHOLE:
                return await self._rest(request, reply, bytes(whole), headers)
        spent = Timings(queue=started - call.arrived, prefill=self._clock() - started)
        if TIMING_HEADER not in headers:
            headers[TIMING_HEADER] = spent.encode()
        self._report(headers, call, spent)
        return web.Response(status=reply.status, body=bytes(whole), headers=headers)

    async def _rest(
        self, request: web.Request, reply: aiohttp.ClientResponse, begun: bytes, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        await response.write(begun)
        async for chunk in reply.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, reply: aiohttp.ClientResponse, call: Call, started: float
    ) -> web.StreamResponse:
        """Whole events, each as soon as it is there; before the last, where the time went."""
        headers = passed(reply.headers)
        timed, reported = TIMING_HEADER in headers, REPORT_HEADER in headers
        self._report(headers, call, None)
        response = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        events, first = Events(), math.inf
        async for chunk in reply.content.iter_any():
            for event in events.feed(chunk):
                now = self._clock()
                first = min(first, now)
                if DONE.match(event):
                    spent = Timings(queue=started - call.arrived, prefill=first - started, decode=now - first)
                    await response.write(b"" if timed else comment(spent))
                    if call.reports and not reported and (report := self._said(spent)):
                        await response.write(load_comment(report))
                await response.write(event)
        if events.rest:
            await response.write(events.rest)
        await response.write_eof()
        return response

    def _report(self, headers: CIMultiDict[str], call: Call, spent: Timings | None) -> None:
        """Add what the load is, where it was asked for and the engine does not say."""
        if call.reports and REPORT_HEADER not in headers and (report := self._said(spent)):
            headers[REPORT_HEADER] = report

    def _said(self, spent: Timings | None) -> str:
        load = self._load()
        if load is None:
            return ""
        utilization = ((load.waiting or 0) + (load.running or 0)) / self._slots
        report = encode_report(load, utilization, 0.0)
        return report if spent is None else with_cost(report, spent)

    def _refuse(self, request: web.Request, refused: Refused, call: Call | None) -> web.Response:
        """A refusal as a response, the load beside it."""
        meaning = TABLE[refused.reason]
        headers: CIMultiDict[str] = CIMultiDict({"x-should-retry": str(meaning.retry).lower()})
        if unexecuted(refused):
            headers[EXECUTED_HEADER] = "0"
        if meaning.waits:
            headers[hdrs.RETRY_AFTER] = "1"
        if call is not None:
            headers["x-request-id"] = call.id
            self._report(headers, call, None)
        body = orjson.dumps(error_body(refused, request.path))
        return web.Response(status=meaning.http, body=body, content_type="application/json", headers=headers)


def passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that go on: not those of the connection, nor those that `Connection` names."""
    named = {name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP | named)
