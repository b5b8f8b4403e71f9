"""Workers that die, clients that leave."""

import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest

from loadtests.embedded import known_workers
from tests.integration.stage import MODEL, failures, hammer, stage, under_load, until, worker_of

MESSAGES = [{"role": "user", "content": "hi"}]
LONG = 200
"""Tokens; at 20 ms each four seconds, long enough to be interrupted."""


def post(tokens: int, stream: bool, request_id: str) -> bytes:
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": tokens, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def slow():
    """Two workers that take 20 ms a token."""
    with stage(workers=2, decode_ms=20) as made:
        yield made


def test_a_killed_worker_costs_no_unary_request():
    with stage(workers=3, base_ms=20) as (_, gateway, workers):
        sent = under_load(gateway, seconds=3.5, during=workers[0].child.kill)
        assert failures(sent) == []
        assert {one.worker for one in sent if one.number < 60} == {"w1", "w2", "w3"}
        assert {one.worker for one in sent if one.number > 60 * 2.5} == {"w2", "w3"}
        assert max(one.attempts for one in sent) >= 2
        until(lambda: "w1" not in known_workers(gateway))


@pytest.mark.slow
def test_a_worker_killed_under_64_busy_connections_costs_none_of_them():
    """It serves two models, so two nodes and all they had in flight are lost at once."""
    with stage(workers=3, model=f"{MODEL},other", base_ms=20, max_batch=64) as (_, gateway, workers):
        ended = hammer(gateway, 4.0, workers[0].child.kill, connections=64, models=(MODEL, "other"))
        assert [one for one in ended if one.error] == []
        assert {one.worker for one in ended if one.at < 1.0} == {"w1", "w2", "w3"}
        assert {one.worker for one in ended if one.at > 3.0} == {"w2", "w3"}
        assert sum(one.attempts > 1 for one in ended) >= 10, "it had about a third of 64 in flight"
        until(lambda: "w1" not in known_workers(gateway))


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_a_client_that_leaves_cancels_its_work_within_100_ms(slow, stream):
    _, gateway, workers = slow
    request_id = f"leaver-{stream}"
    request = post(LONG, stream, request_id)
    parts = urlsplit(gateway.url)

    def execution():
        found = [entry for worker in workers for entry in worker.log() if entry["request_id"] == request_id]
        return found[0] if found else None

    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(request)
        if stream:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        until(execution)
    left = time.time()
    entry = until(lambda: (found := execution()) and found["end"] != "running" and found["ended"] and found)
    assert entry["end"] == "cancelled"
    assert entry["ended"] - left < 0.1


def test_a_worker_killed_in_mid_stream_is_an_error_for_the_client():
    with (
        stage(workers=2, decode_ms=20) as (_, gateway, workers),
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, max_tokens=LONG, stream=True
        )
        victim = next(w for w in workers if w.child.name == worker_of(dict(raw.headers)))
        stream = iter(raw.parse())
        assert next(stream).choices[0].delta.content == "word "
        victim.child.kill()
        with pytest.raises(openai.APIError) as interrupted:
            list(stream)
        assert interrupted.value.code == "stream_interrupted"


def test_a_stream_cut_in_the_middle_ends_with_an_error_event_and_without_an_end(slow):
    _, gateway, workers = slow
    for worker in workers:
        worker.control(fault="cut")
    request = post(20, stream=True, request_id="cut")
    parts = urlsplit(gateway.url)
    reply = b""
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(request)
            while data := connection.recv(65536):
                reply += data
    finally:
        for worker in workers:
            worker.control(fault="none")
    assert reply.count(b'"content":"word "') == 10
    assert b'data: {"error":' in reply
    assert b"[DONE]" not in reply
    assert not reply.endswith(b"0\r\n\r\n")
