"""The saturating client counts what was answered, and the model it is served by is a manifest the worker takes."""

import asyncio
import contextlib
import sys

import pytest
from aiohttp import web

torch = pytest.importorskip("torch")

from workers import manifest  # noqa: E402
from workers.bench import front  # noqa: E402
from workers.bench.encoder import TINY  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
async def served():
    """A server that answers what it is told to; its URL, and how it is told."""
    answers = {"status": 200, "seen": 0}

    async def answer(request):
        answers["seen"] += 1
        await asyncio.sleep(0.005)
        return web.Response(status=answers["status"], body=await request.read())

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/", answers
    await runner.cleanup()


async def test_every_answer_counts_once(served):
    url, answers = served
    turn = await front.saturated(url, [b"a", b"b"], 0.2)
    assert 0 < turn.per_second <= answers["seen"] / 0.2
    assert turn.p50 >= 0.005


async def test_anything_but_an_answer_ends_the_comparison(served):
    url, answers = served
    answers["status"] = 503
    with pytest.raises(ExceptionGroup) as raised:
        await front.saturated(url, [b"a"], 0.2)
    assert "answered 503" in str(raised.value.exceptions[0])


def test_the_encoder_becomes_a_manifest_that_can_be_served(tmp_path):
    path = front.exported(tmp_path, TINY, torch.device("cpu"))
    told = manifest.load(path)
    assert told.variants[0].engine == "torch"
    program = torch.export.load(tmp_path / told.variants[0].file).module()
    vectors = program(torch.zeros((3, TINY.length), dtype=torch.int64))["vectors"]
    assert vectors.shape == (3, TINY.hidden)


def test_a_process_that_ends_instead_of_serving_is_a_fault(tmp_path):
    with contextlib.ExitStack() as stack:
        quick = front.start(stack, tmp_path, sys.executable, "-c", "print('ready http://x control'); input()")
        assert front.said("quick", quick) == ["ready", "http://x", "control"]
    with contextlib.ExitStack() as stack:
        broken = front.start(stack, tmp_path, sys.executable, "-c", "raise SystemExit(4)")
        with pytest.raises(RuntimeError, match="it ended with 4"):
            front.said("it", broken)
