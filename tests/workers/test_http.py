import asyncio
import json
import math

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDict

from policies.reason import Reason
from policies.records import Load, decode_load
from policies.reports import decode_report
from tests.workers.fakes import Doubler, serving, tensor_entry, text_entry, until
from workers.http import MAX_BODY, Refused, error_body, invalid, read_headers

INFER = "/v2/models/double/infer"
BODY = {
    "inputs": [
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]},
        {"name": "k", "shape": [1, 1], "datatype": "INT64", "data": [1]},
    ]
}


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(client, method, url, **sent):
    async with client.request(method, url, **sent) as response:
        raw = await response.read()
        return response.status, response.headers, json.loads(raw) if raw.startswith(b"{") else raw


async def test_health_is_the_load_record_and_says_when_it_drains(client):
    async with serving(tensor_entry()) as bench:
        status, _, body = await ask(client, "GET", f"{bench.url}/healthz")
        assert status == 200
        assert isinstance(decode_load(json.dumps(body).encode()), Load)
        bench.batcher.draining = True
        status, _, body = await ask(client, "GET", f"{bench.url}/healthz")
        assert (status, body["draining"]) == (503, True)


async def test_health_answers_while_the_accelerator_is_busy(client):
    engine = Doubler()
    engine.gate.clear()
    async with serving(tensor_entry(engine)) as bench:
        request = asyncio.ensure_future(ask(client, "POST", bench.url + INFER, json=BODY))
        await until(lambda: bench.batcher.runners["double:fp32"].running)
        _, _, body = await ask(client, "GET", f"{bench.url}/healthz")
        engine.gate.set()
        await request
        assert body["running"] == 1


async def test_metrics_are_prometheus_text(client):
    async with serving(tensor_entry()) as bench:
        status, headers, body = await ask(client, "GET", f"{bench.url}/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4")
    assert b"vllm:num_requests_waiting" in body


async def test_a_reply_carries_its_request_id_and_its_timing(client):
    async with serving(tensor_entry()) as bench:
        headers = {"x-request-id": "abc-1"}
        status, replied, _ = await ask(client, "POST", bench.url + INFER, json=BODY, headers=headers)
    assert (status, replied["x-request-id"]) == (200, "abc-1")
    assert replied["server-timing"].startswith("queue;dur=")
    assert "accel;dur=" in replied["server-timing"]


async def test_whoever_asks_gets_the_load_with_any_answer(client):
    asking = {"endpoint-load-metrics-format": "json"}
    async with serving(tensor_entry()) as bench:
        answers = [
            await ask(client, "POST", bench.url + path, json=BODY, headers=headers)
            for path in (INFER, "/v2/models/other/infer", "/nowhere")
            for headers in (asking, {}, {"endpoint-load-metrics-format": "text"})
        ]
    reports = [headers.get("endpoint-load-metrics") for _, headers, _ in answers]
    assert [status for status, _, _ in answers[::3]] == [200, 404, 404]
    assert [report is not None for report in reports] == [True, False, False] * 3
    read = [decode_report(report.encode()) for report in reports[::3]]
    assert [(report.arrived, report.running) for report in read] == [(1, 0), (3, 0), (3, 0)]
    assert read[0].seq < read[1].seq < read[2].seq
    costs = [json.loads(report.removeprefix("JSON ")).get("request_cost") for report in reports[::3]]
    assert costs[0]["batch_items"] == 1
    assert costs[0].keys() == {"queue_seconds", "compute_seconds", "accelerator_seconds", "batch_items"}
    assert costs[1:] == [None, None], "a refusal cost nothing"


def told(body):
    """What an error says: an object, or beside the sentence that the Open Inference Protocol has in its place."""
    error = body["error"] if isinstance(body["error"], dict) else {"message": body.pop("error"), **body}
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"method": "GET", "path": "/nowhere"}, 404, "not_found"),
        ({"method": "PUT", "path": INFER}, 405, "method_not_allowed"),
        ({"path": INFER, "data": b"{"}, 400, "invalid_json"),
        ({"path": INFER, "data": b"[]"}, 400, "bad_request"),
        ({"path": INFER, "data": b"{}"}, 400, "bad_request"),
        ({"path": "/v2/models/other/infer", "json": BODY}, 404, "model_not_found"),
        ({"path": INFER, "json": BODY, "headers": {"x-deadline-ms": "soon"}}, 400, "bad_request"),
        ({"path": INFER, "json": BODY, "headers": {"x-deadline-ms": "-5"}}, 400, "bad_request"),
        ({"path": INFER, "json": BODY, "headers": {"x-deadline-ms": "nan"}}, 400, "bad_request"),
        ({"path": INFER, "json": BODY, "headers": {"x-deadline-ms": "0"}}, 504, "deadline_exceeded"),
        ({"path": INFER, "json": BODY, "headers": {"x-envoy-expected-rq-timeout-ms": "0"}}, 504, "deadline_exceeded"),
        ({"path": INFER, "json": BODY, "headers": {"x-isochrone-variant": "bf16"}}, 404, "model_not_found"),
        ({"path": INFER, "data": b"x", "headers": {"content-encoding": "gzip"}}, 415, "unsupported_encoding"),
    ],
)
async def test_refusals_have_one_shape_and_the_open_inference_protocols_its_own(client, sent, status, code):
    sent = {"method": "POST", **sent}
    async with serving(tensor_entry()) as bench:
        got, headers, body = await ask(client, sent.pop("method"), bench.url + sent.pop("path"), **sent)
    assert (got, told(body)["code"]) == (status, code)
    assert headers["x-request-id"]
    assert headers["x-should-retry"] == "false"
    assert ("x-isochrone-executed" in headers) == (status in (504, 503) or code == "model_not_found")


async def test_who_asks_for_what_is_not_there_is_told_what_is(client):
    async with serving(tensor_entry()) as bench:
        _, _, body = await ask(client, "POST", bench.url + "/v1/nowhere")
    assert told(body)["message"].endswith("/v2/models/{model}/infer, /v2/models/{model}/versions/{version}/infer.")


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent():
    async with serving(tensor_entry()) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), MAX_BODY + 1))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        assert b"Connection: close" in head
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"s3cr\xe9t\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\ns3cret \x01: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: s3cret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx-big: " + b"s3cret" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"s3cret: 1\r\n" * 101 + b"\r\n",
    ],
    ids=["no http", "header", "length", "long", "many"],
)
async def test_bytes_that_are_no_http_get_the_same_shape_and_nothing_of_theirs_back(sent, caplog):
    async with serving(tensor_entry()) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.split()[1] == b"400"
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["error"]["code"] == "bad_framing"
    assert b"s3cr" not in body
    assert "Traceback" not in caplog.text, "anyone could fill the log"


async def test_a_chunked_body_that_grows_too_large_is_refused(client):
    async def chunks():
        for _ in range(MAX_BODY // 65536 + 1):
            yield b"x" * 65536

    async with serving(tensor_entry()) as bench:
        status, _, body = await ask(client, "POST", bench.url + INFER, data=chunks())
    assert (status, told(body)["code"]) == (413, "body_too_large")


async def test_full_and_draining_are_refused_unexecuted_with_a_hint_when_to_come_back(client):
    async with serving(tensor_entry(), queue_limit=1, executing=False) as bench:
        first = asyncio.ensure_future(ask(client, "POST", bench.url + INFER, json=BODY))
        await until(lambda: len(bench.batcher.queue) == 1)
        full = await ask(client, "POST", bench.url + INFER, json=BODY)
        bench.batcher.draining = True
        draining = await ask(client, "POST", bench.url + INFER, json=BODY)
        first.cancel()
        await asyncio.wait([first])
    for (status, headers, body), code in ((full, "overloaded"), (draining, "draining")):
        assert (status, told(body)["code"], headers["x-isochrone-executed"]) == (503, code, "0")
        assert headers["x-should-retry"] == "true"
        assert int(headers["retry-after"]) >= 1


async def test_an_executed_failure_is_not_marked_as_safe_to_repeat(client):
    body = {"inputs": [{**BODY["inputs"][0], "data": [999, 1]}, BODY["inputs"][1]]}
    async with serving(tensor_entry()) as bench:
        status, headers, _ = await ask(client, "POST", bench.url + INFER, json=body)
    assert status == 500
    assert "x-isochrone-executed" not in headers


async def test_a_fault_of_ours_is_a_500_in_the_same_shape(client, monkeypatch, caplog):
    async with serving(tensor_entry()) as bench:
        monkeypatch.setattr(bench.batcher, "submit", lambda jobs: 1 / 0)
        status, _, body = await ask(client, "POST", bench.url + INFER, json=BODY)
    assert (status, told(body)["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text


async def test_a_client_that_leaves_the_queue_takes_its_work_with_it(client):
    async with serving(tensor_entry(), executing=False) as bench:
        _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        raw = json.dumps(BODY).encode()
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (INFER.encode(), len(raw), raw))
        await until(lambda: len(bench.batcher.queue) == 1)
        writer.close()
        await until(lambda: len(bench.batcher.queue) == 0, seconds=0.1)
        await writer.wait_closed()
        await bench.server.idle()


async def test_connections_are_reused(client):
    async with serving(tensor_entry(), text_entry()) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        for _ in range(3):
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(b'{"live":true}')) == b'{"live":true}'
        writer.close()
        await writer.wait_closed()


def test_a_reasons_fixed_text_stands_where_nothing_is_said():
    assert error_body(Refused(Reason.NOT_FOUND))["error"]["message"] == "No such path."


def test_what_is_wrong_with_a_body_is_said_in_jsons_words():
    class Body(msgspec.Struct):
        count: int | None = None
        name: str | list[str] = ""

    for raw, message, param in (
        (b'{"count": "x"}', "Expected `integer | null`, got `string`.", "count"),
        (b'{"name": true}', "Expected `string | array`, got `boolean`.", "name"),
    ):
        with pytest.raises(msgspec.ValidationError) as fault:
            msgspec.json.decode(raw, type=Body)
        assert invalid(fault.value) == Refused(Reason.BAD_REQUEST, message, param)


def test_headers_say_deadlines_and_the_wait_that_is_counted_on():
    given = CIMultiDict({"x-deadline-ms": "2000", "x-slo-ttft-ms": "500", "x-isochrone-wait-ms": "30"})
    call = read_headers(given, 10.0)
    assert (call.deadline, call.first_deadline, call.expected_wait) == (12.0, 10.5, 0.03)
    call = read_headers(CIMultiDict({"x-envoy-expected-rq-timeout-ms": "700"}), 10.0)
    assert (call.deadline, call.first_deadline, call.expected_wait) == (10.7, math.inf, None)


@pytest.mark.parametrize("name", ["x-deadline-ms", "x-slo-ttft-ms", "x-isochrone-wait-ms"])
def test_a_duration_that_is_no_number_is_refused_by_its_name(name):
    assert read_headers(CIMultiDict({name: "soon"}), 0.0).param == name
