"""An engine that is its pages: path -> text or JSON, recorded from its source, with figures a test sets."""

import contextlib

import aiohttp
from aiohttp import web

from policies.records import HEARTBEAT_SECONDS
from policies.request import Dispatch, LoadSeen, Outcome
from tests.fleets import endpoint, load, request, router, worker
from workers.attach import adapter
from workers.attach.sidecar import Sidecar
from workers.cli import DECODE_TPS, MAX_BATCH, PREFILL_TPS
from workers.config import guessed_curve

DEPTHS = (0, 5, 12, 20)


class Pages:
    """What it answers."""

    def __init__(self):
        self.url = ""
        self.texts = {}
        self.statuses = {}

    async def answer(self, request):
        path = str(request.rel_url)
        status = self.statuses.get(path, 200 if path in self.texts else 404)
        return web.Response(status=status, text=self.texts.get(path, ""))


@contextlib.asynccontextmanager
async def serving():
    """A server of pages, and a session to ask it with."""
    pages = Pages()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pages.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pages.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as session:
            yield pages, session
    finally:
        await runner.cleanup()


async def choices(engine, health, path, text):
    """Where a router sends one request while the queue on an engine's page rises: depth -> worker.

    The engine is cheap and as `attach` guesses it; beside it stands a dear one that is always idle. A request of 500
    tokens in, 100 out takes it 2.1 s of the 3 it has.
    """
    served = (endpoint(curve=guessed_curve(PREFILL_TPS, DECODE_TPS), max_batch=MAX_BATCH),)
    cheap, dear = worker("cheap", endpoints=served), worker("dear", usd_per_hour=9.0, endpoints=served)
    chosen, seen = {}, []
    async with serving() as (pages, session):
        pages.texts[health] = ""
        made = adapter(engine)(session, pages.url, pages.url + path)
        sidecar = Sidecar(made, "cheap", "b1")
        routed = router(cheap, dear)
        for seq, depth in enumerate(DEPTHS, 2):
            now = seq * HEARTBEAT_SECONDS
            pages.texts[path] = text.format(depth=depth)
            await sidecar.ask()
            seen.append(sidecar.load().waiting)
            for told in (sidecar.load(), load("dear", seq=seq)):
                routed.observe(LoadSeen(told, now), now)
            asked = request(id=f"r{depth}", arrived=now, deadline=now + 3.0, prompt_tokens=500.0, output_tokens=100.0)
            dispatch = routed.route(asked, now)
            assert isinstance(dispatch, Dispatch)
            chosen[depth] = dispatch.node.worker.id
            routed.report(dispatch, Outcome(total=2.1), now + 0.1)
    assert seen == list(DEPTHS)
    return chosen
