import contextlib

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from tests.workers.attach.test_sglang import LOADS
from tests.workers.attach.test_sglang import PAGE as SGLANG
from tests.workers.attach.test_vllm import PAGE as VLLM
from workers.attach import adapter
from workers.attach.conformance import Conformance, usage_of
from workers.cli import worker

USAGE = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
REPORT = "TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=3"
"""As vLLM 0.33 writes it."""


class Recorded:
    """An engine's pages and answers, as its source writes them."""

    def __init__(self, page):
        self.pages = {"/health": "", page[0]: page[1].format(depth=3)}
        self.models = [{"id": "org/m"}]
        self.usage = USAGE
        self.stream_usage = True
        self.done = True
        self.report = REPORT

    async def get(self, request):
        if request.path == "/v1/models":
            return web.json_response({"data": self.models})
        text = self.pages.get(str(request.rel_url))
        return web.Response(status=404) if text is None else web.Response(text=text)

    async def chat(self, request):
        body = await request.json()
        if body["model"] != "org/m":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if not body.get("stream"):
            headers = {"endpoint-load-metrics": self.report} if self.report else {}
            return web.json_response({"choices": [], "usage": self.usage}, headers=headers)
        events = ['data: {"choices":[]}']
        if self.stream_usage:
            events.append('data: {"choices":[],"usage":{"completion_tokens":4}}')
        events += ["data: [DONE]"] * self.done
        return web.Response(text="".join(f"{event}\n\n" for event in events), content_type="text/event-stream")


@contextlib.asynccontextmanager
async def serving(recorded):
    app = web.Application()
    app.router.add_post("/v1/chat/completions", recorded.chat)
    app.router.add_get("/{path:.*}", recorded.get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def verdicts(recorded, engine="vllm", model=""):
    async with serving(recorded) as url, aiohttp.ClientSession() as session:
        rows = await Conformance(session, url, adapter(engine)(session, url), model).rows()
    return {row.check: row.verdict.value for row in rows}, {row.check: row.found for row in rows}


ALL_WELL = dict.fromkeys(("health", "models", "load", "answer", "stream", "load report"), "ok")


@pytest.mark.parametrize(("engine", "page"), [("vllm", ("/metrics", VLLM)), ("sglang", (LOADS, SGLANG))])
async def test_an_engine_as_recorded_conforms(engine, page):
    assert (await verdicts(Recorded(page), engine))[0] == ALL_WELL


async def test_gauges_of_another_name_fail_and_are_named():
    recorded = Recorded(("/metrics", VLLM.replace("vllm:num_requests_waiting{{", "vllm:renamed{{")))
    found, said = await verdicts(recorded)
    assert found == ALL_WELL | {"load": "FAIL"}
    assert "lacks vllm:num_requests_waiting" in said["load"]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"usage": None}, {"answer": "FAIL"}),
        ({"done": False}, {"stream": "FAIL"}),
        ({"stream_usage": False}, {"stream": "lacks"}),
        ({"report": ""}, {"load report": "lacks"}),
        ({"report": "TEXT cpu_utilization=0.1"}, {"load report": "FAIL"}),
        ({"pages": {}}, {"health": "FAIL", "load": "FAIL"}),
        ({"models": []}, {"models": "FAIL", "answer": "FAIL", "stream": "FAIL", "load report": "lacks"}),
    ],
)
async def test_what_is_missing_is_told_apart_from_what_may_be_missing(change, differs):
    recorded = Recorded(("/metrics", VLLM))
    for name, value in change.items():
        setattr(recorded, name, value)
    assert (await verdicts(recorded))[0] == ALL_WELL | differs


async def test_an_engine_without_load_may_be_counted():
    found, said = await verdicts(Recorded(("/metrics", VLLM)), "openai", "org/m")
    assert found == ALL_WELL | {"load": "lacks"}
    assert "--proxy" in said["load"]


def test_the_exit_status_is_1_where_nobody_answers():
    result = CliRunner().invoke(worker, ["conformance", "http://127.0.0.1:1", "--engine", "vllm"])
    assert result.exit_code == 1
    assert "health       FAIL   connection refused" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("e", "--engine", "x"), "choose among"), (("https://e", "--engine", "vllm"), "HOST:PORT")],
)
def test_options_that_cannot_be_used_end_with_status_2(arguments, says):
    result = CliRunner().invoke(worker, ["conformance", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr


def test_usage_is_read_from_answers_only():
    assert usage_of(b' {"usage":{"a":1}} ') == {"a": 1}
    assert usage_of(b'{"usage":null}') == usage_of(b"[DONE]") == usage_of(b"[1]") == {}
