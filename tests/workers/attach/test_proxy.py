import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from policies.records import Load, decode_timings
from policies.reports import decode_report
from tests.workers.fakes import until
from workers.attach.proxy import Proxy, session
from workers.attach.turns import Turns

CHAT = "/v1/chat/completions"
ASK = {"endpoint-load-metrics-format": "JSON"}


class Slow:
    """An engine that answers when a test lets it, and remembers what it saw."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = self.left = 0
        self.seen = None
        self.extra = {}
        self.broken = False

    async def answer(self, request):
        self.begun += 1
        self.seen = (request.method, request.raw_path, dict(request.headers), await request.read())
        try:
            if request.headers.get("x-stream"):
                return await self.stream(request)
            await self.gate.wait()
            return web.Response(body=b'{"ok":true}', content_type="application/json", headers=self.extra)
        except asyncio.CancelledError:
            self.left += 1
            raise

    async def stream(self, request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"} | self.extra)
        await response.prepare(request)
        await response.write(b'data: {"n":1}\n\ndata: {"n"')
        await self.gate.wait()
        if self.broken:
            request.transport.abort()
            return response
        await response.write(b":2}\n\ndata: [DONE]\n\n")
        return response


@contextlib.asynccontextmanager
async def standing(slots=1, limit=2):
    """An engine, the proxy before it, and a client."""
    slow, app = Slow(), web.Application()
    app.router.add_route("*", "/{path:.*}", slow.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    clock = asyncio.get_running_loop().time
    turns = Turns(slots, limit, clock)

    def load():
        return Load(worker="w", boot="b", seq=1, waiting=turns.waiting, running=turns.running)

    async with session() as engine:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        proxy = Proxy(engine, url, turns, slots, load, asyncio.Event(), clock)
        port = await proxy.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                yield slow, proxy, client, runner
        finally:
            await proxy.close()
            await runner.cleanup()


async def test_an_answer_gets_times_and_load_and_bytes_pass_as_they_are():
    async with (
        standing() as (slow, _, client, _),
        client.post(URL(f"{CHAT}?a=%2F", encoded=True), data=b'{ "x": 1}', headers=ASK) as got,
    ):
        assert (got.status, await got.read()) == (200, b'{"ok":true}')
        method, path, headers, body = slow.seen
        assert (method, path, body) == ("POST", f"{CHAT}?a=%2F", b'{ "x": 1}')
        assert headers["Content-Length"] == "9"
        spent = decode_timings(got.headers["server-timing"].encode())
        assert spent.queue >= 0
        assert spent.prefill > 0
        assert decode_report(got.headers["endpoint-load-metrics"].encode()).running == 1


async def test_what_the_engine_says_itself_stays():
    async with standing() as (slow, _, client, _):
        slow.extra = {"server-timing": "prefill;dur=7", "endpoint-load-metrics": "TEXT a=1"}
        async with client.post(CHAT, headers=ASK) as got:
            assert got.headers.getall("server-timing") == ["prefill;dur=7"]
            assert got.headers.getall("endpoint-load-metrics") == ["TEXT a=1"]


async def test_a_stream_passes_event_by_event_with_the_times_before_its_end():
    async with standing() as (slow, _, client, _):
        slow.gate.clear()
        async with client.post(CHAT, headers={"x-stream": "1"} | ASK) as got:
            assert decode_report(got.headers["endpoint-load-metrics"].encode()).running == 1
            assert await got.content.readany() == b'data: {"n":1}\n\n', "a whole event, and no half of the next"
            slow.gate.set()
            second, timing, load, done = (await got.content.read()).split(b"\n\n")[:-1]
        assert (second, done) == (b'data: {"n":2}', b"data: [DONE]")
        assert decode_timings(timing.removeprefix(b": timing ")).decode > 0
        assert decode_report(load.removeprefix(b": load ")).running == 1


async def test_what_waits_is_counted_and_what_expires_never_reaches_the_engine():
    async with standing() as (slow, proxy, client, _):
        slow.gate.clear()
        first = asyncio.ensure_future(client.post(CHAT))
        await until(lambda: slow.begun == 1)
        second = asyncio.ensure_future(client.post(CHAT, headers={"x-deadline-ms": "60000"}))
        await until(lambda: proxy.counts() == (1, 1, 0.0))
        async with client.post(CHAT, headers={"x-deadline-ms": "20", "x-request-id": "r1"} | ASK) as late:
            assert (late.status, (await late.json())["error"]["code"]) == (504, "deadline_exceeded")
            assert late.headers["x-isochrone-executed"] == "0"
            assert late.headers["x-request-id"] == "r1"
            assert decode_report(late.headers["endpoint-load-metrics"].encode()).waiting == 1
        slow.gate.set()
        assert [(await each).status for each in (first, second)] == [200, 200]
        assert slow.begun == 2
        assert 0 < float(slow.seen[2]["x-deadline-ms"]) < 60000
        await asyncio.wait_for(proxy.idle(), 1)


async def test_a_full_line_is_refused_unexecuted():
    async with standing(limit=1) as (slow, proxy, client, _):
        slow.gate.clear()
        both = [asyncio.ensure_future(client.post(CHAT)) for _ in range(2)]
        await until(lambda: proxy.counts() == (1, 1, 0.0))
        async with client.post(CHAT) as got:
            assert (got.status, got.headers["x-isochrone-executed"], got.headers["retry-after"]) == (503, "0", "1")
        slow.gate.set()
        await asyncio.gather(*both)


@pytest.mark.parametrize("headers", [{}, {"x-stream": "1"}])
async def test_a_client_that_leaves_takes_its_request_with_it(headers):
    async with standing() as (slow, proxy, client, _):
        slow.gate.clear()
        asking = asyncio.ensure_future(client.post(CHAT, headers=headers))
        await until(lambda: slow.begun == 1)
        if headers:
            (await asking).close()
        asking.cancel()
        await until(lambda: slow.left == 1)
        await until(lambda: proxy.counts() == (0, 0, 0.0))


async def test_health_and_listings_pass_beside_the_line():
    async with standing() as (slow, _, client, _):
        slow.gate.clear()
        asking = asyncio.ensure_future(client.post(CHAT))
        await until(lambda: slow.begun == 1)
        slow.gate.set()
        async with client.get("/health") as got:
            assert (got.status, slow.seen[1]) == (200, "/health")
        (await asking).close()


async def test_an_engine_that_is_gone_executed_nothing():
    async with standing() as (_, _, client, runner):
        await runner.cleanup()
        async with client.post(CHAT) as got:
            assert (got.status, got.headers["x-isochrone-executed"]) == (502, "0")
        async with client.get("/health") as got:
            assert got.status == 502


async def test_a_stream_that_breaks_is_seen_to_break():
    async with standing() as (slow, proxy, client, _):
        slow.broken = True
        async with client.post(CHAT, headers={"x-stream": "1"}) as got:
            with pytest.raises(aiohttp.ClientPayloadError):
                await got.read()
        await until(lambda: proxy.counts() == (0, 0, 0.0))


async def test_a_target_that_is_no_path_names_no_other_engine():
    async with standing() as (slow, _, client, _):
        reader, writer = await asyncio.open_connection(client._base_url.host, client._base_url.port)
        writer.write(b"GET http://127.0.0.1:1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()
        assert slow.begun == 0


async def test_nonsense_in_a_header_is_refused():
    async with standing() as (slow, _, client, _):
        async with client.post(CHAT, headers={"x-deadline-ms": "soon"}) as got:
            assert (got.status, (await got.json())["error"]["param"]) == (400, "x-deadline-ms")
        assert slow.begun == 0
