import asyncio
import json

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from loadtests.live.accelerator import Accelerator
from loadtests.live.emulated import NOISE_HEADER, OUTPUT_HEADER, PROMPT_HEADER, Emulated, application
from loadtests.simulator.world import Profile
from policies import records
from policies.reports import REPORT_COMMENT, REPORT_FORMAT_HEADER, REPORT_HEADER, decode_report
from tests.workers.fakes import until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
CURVE = records.Curve(base=0.004, item=0.001, prefill=0.0, decode=0.002)


@pytest.fixture
def emulated():
    endpoint = records.Endpoint(model="m", variant="fp32", quality=1.0, curve=CURVE, max_batch=1)
    return Emulated(
        records.Worker(
            id="w",
            boot="b",
            seq=1,
            address="127.0.0.1:1",
            region="r",
            price=records.MarginalPrice(1),
            endpoints=(endpoint,),
        )
    )


@pytest.fixture
async def client(emulated):
    server = TestServer(application(emulated), handler_cancellation=True)
    async with TestClient(server) as client:
        yield client


async def test_unary_reply_takes_what_the_curve_says_and_reports_it(client):
    answer = await client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "r1"})
    spent = records.decode_timings(answer.headers["server-timing"].encode())
    assert (await answer.json())["choices"][0]["message"]["content"] == "word " * 4
    assert spent.accel == pytest.approx(0.004 + 3 * 0.002)
    assert spent.queue < 0.1


async def test_stream_ends_with_the_timing_comment_and_done(client):
    answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    events = (await answer.text()).split("\n\n")
    assert sum('"content":"word "' in event for event in events) == 4
    assert events[-3].startswith(": timing queue;dur=")
    assert events[-2] == "data: [DONE]"


async def test_whoever_asks_gets_the_load_as_our_workers_say_it(client):
    asking = {REPORT_FORMAT_HEADER: "JSON"}
    whole = await client.post("/v1/chat/completions", json=CHAT, headers=asking)
    stream = await client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=asking)
    unasked = await client.post("/v1/chat/completions", json=CHAT)
    *_, timing, load, done, _ = (await stream.read()).split(b"\n\n")
    first, second = (decode_report(answer.headers[REPORT_HEADER].encode()) for answer in (whole, stream))
    third = decode_report(load.removeprefix(REPORT_COMMENT))
    assert (first.running, second.running, third.running) == (0, 1, 0)
    assert (first.arrived, second.arrived) == (1, 2)
    assert first.seq < second.seq < third.seq
    assert (timing[:8], done) == (b": timing", b"data: [DONE]")
    assert REPORT_HEADER not in unasked.headers


async def test_embeddings_have_one_vector_per_input(client):
    answer = await client.post("/v1/embeddings", json={"model": "m", "input": ["a", "b", "c"]})
    assert len((await answer.json())["data"]) == 3


async def test_requests_beyond_the_batch_wait(client, emulated):
    emulated.slow = 5
    both = [client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
    answers = await asyncio.gather(*both)
    waited = sorted(records.decode_timings(a.headers["server-timing"].encode()).queue for a in answers)
    assert waited[0] < 0.02
    assert waited[1] >= 0.045


async def test_log_tells_what_was_done_to_whom(client):
    await client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "r1", "x-deadline-ms": "250"})
    (entry,) = await (await client.get("/control/log")).json()
    assert entry["request_id"] == "r1"
    assert entry["deadline_ms"] == 250
    assert entry["end"] == "done"
    assert entry["ended"] >= entry["started"]


async def test_a_client_that_leaves_is_logged_as_cancelled(client, emulated):
    emulated.slow = 1000
    with pytest.raises(TimeoutError):
        await client.post("/v1/chat/completions", json=CHAT, timeout=aiohttp.ClientTimeout(total=0.1))
    async with asyncio.timeout(2):
        while emulated.log[0].ended == 0.0:
            await client.get("/control/log")
    assert emulated.log[0].end == "cancelled"
    assert emulated.running == emulated.waiting == 0


async def test_reported_queue_is_set_and_unset(client):
    await client.post("/control", json={"queue": 20})
    assert (await (await client.get("/healthz")).json())["waiting"] == 20
    page = await (await client.get("/metrics")).text()
    assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 20.0' in page
    await client.post("/control", json={"queue": -1})
    assert (await (await client.get("/healthz")).json())["waiting"] == 0


@pytest.mark.parametrize(("fault", "status"), [("error", 500), ("refuse", 503), ("gzip", 200)])
async def test_faults_that_still_answer(client, fault, status):
    await client.post("/control", json={"fault": fault})
    async with client.session.post(client.make_url("/v1/chat/completions"), json=CHAT) as answer:
        assert answer.status == status
        assert (answer.headers.get("x-isochrone-executed") == "0") is (fault == "refuse")


@pytest.mark.parametrize("fault", ["garbage", "cut"])
async def test_faults_that_do_not_answer(client, fault):
    await client.post("/control", json={"fault": fault})
    with pytest.raises(aiohttp.ClientError):
        await client.post("/v1/chat/completions", json=CHAT)


async def test_a_cut_stream_has_no_end(client):
    await client.post("/control", json={"fault": "cut"})
    answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.text()


async def test_a_black_hole_never_answers(client, emulated):
    await client.post("/control", json={"fault": "black_hole"})
    with pytest.raises(TimeoutError):
        await client.post("/v1/chat/completions", json=CHAT, timeout=aiohttp.ClientTimeout(total=0.2))


async def test_a_stall_holds_its_place_until_it_is_called_off(client, emulated):
    await client.post("/control", json={"fault": "stall"})
    headers = {"x-isochrone-hedge": "tied"}
    asked = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT, headers=headers))
    await until(lambda: emulated.running)
    asked.cancel()
    await until(lambda: not emulated.running)
    (entry,) = emulated.log
    assert (entry.end, entry.hedge) == ("cancelled", "tied")


async def test_price_is_changed_in_the_record(client, emulated):
    await client.post("/control", json={"usd_per_hour": 0.5})
    assert emulated.worker.price == records.MarginalPrice(0.5)
    assert emulated.changed.is_set()


@pytest.mark.parametrize("body", [b"{", b'{"fault": "unheard of"}', b'{"colour": 1}'])
async def test_bad_control_is_refused(client, body):
    answer = await client.post("/control", data=body)
    assert answer.status == 400
    assert json.loads(await answer.text())["error"]


PROFILE = Profile(accelerator="x", prefill_tokens_per_s=100_000, overhead_s=0.01, decode_s=0.001, slots=4)
ASKED = {PROMPT_HEADER: "1000", OUTPUT_HEADER: "11", NOISE_HEADER: "2"}


@pytest.fixture
async def modelled(emulated):
    """One that serves by the simulator's model."""
    emulated.accelerator = Accelerator(PROFILE, 10, asyncio.get_running_loop().time)
    async with TestClient(TestServer(application(emulated), handler_cancellation=True)) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
async def test_with_an_accelerator_headers_say_what_a_request_costs(modelled, stream):
    answer = await modelled.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=ASKED)
    text = await answer.text()
    told = text.split(": timing ")[1].split("\n")[0] if stream else answer.headers["server-timing"]
    spent = records.decode_timings(told.encode())
    assert (spent.prefill, spent.decode) == pytest.approx((0.04, 0.02))
    assert spent.accel == pytest.approx(0.04 + 0.02 / 4)
    assert '"completion_tokens":11' in text.replace(" ", "")
    if stream:
        assert text.count("data: ") == 3  # first token, last token, the end
        assert text.endswith("data: [DONE]\n\n")


async def test_with_an_accelerator_its_load_says_how_long_the_wait_is(modelled, emulated):
    slow = ASKED | {NOISE_HEADER: "1000"}
    tasks = [asyncio.ensure_future(modelled.post("/v1/chat/completions", json=CHAT, headers=slow)) for _ in range(3)]
    while emulated.accelerator.waiting < 2:
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.001))])
    load = emulated.load()
    assert (load.waiting, load.running) == (2, 1)
    assert load.backlog > 1.0
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    while emulated.accelerator.running:  # clients that leave cost no more
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.001))])
    assert emulated.load().waiting == 0


async def test_a_herd_is_measured_from_when_it_is_asked_for(modelled):
    async def worst():
        return (await (await modelled.get("/control/herd")).json())["worst"]

    await modelled.post("/v1/chat/completions", json=CHAT, headers=ASKED)
    assert await worst() is None
    await modelled.post("/control", json={"herd_s": 1e-3})
    await asyncio.sleep(0.002)  # the window that it was asked in does not count
    await modelled.post("/v1/chat/completions", json=CHAT, headers=ASKED)
    assert await worst() == pytest.approx(0.02 / 1e-3), "20 ms of prefill in a window of one"
