"""The load generator against a scripted server on loopback."""

import asyncio
import json

import pytest

from loadtests.arrivals import Arrivals, Process
from loadtests.live.client import Client, message
from loadtests.workload import Class, Demand, Planned, Surface

CHAT = Class(name="chat", surface=Surface.CHAT, model="m", total_s=0.2, min_quality=0.9)
OK = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: r-1\r\nx-route-node: n1\r\nx-route-region: eu\r\n"
    b"x-route-variant: fp32\r\nx-route-eta-ms: 12.5\r\nx-route-cost-usd: 0.000002\r\nx-route-attempts: 2\r\n\r\n{}"
)
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def stream(*events: bytes) -> bytes:
    body = b"".join(events)
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def planned(kind: Class, at: float = 0.0) -> Planned:
    return Planned(0, at, kind, prompt_tokens=3, output_tokens=4, items=2, seed=1)


class Server(asyncio.Protocol):
    """Answers every request with the next scripted reply; None means never, b'' closes."""

    def __init__(self, script):
        self.script = script

    def connection_made(self, transport):
        self.transport = transport
        self.script.connections.append(transport)

    def data_received(self, data):
        self.script.received.append(data)
        if len(self.script.received) == 10:
            self.script.tenth.set()
        reply = self.script.replies.pop(0) if len(self.script.replies) > 1 else self.script.replies[0]
        if reply:
            self.transport.write(reply)
        elif reply is not None:
            self.transport.close()


class Script:
    def __init__(self):
        self.replies = [OK]
        self.received = []
        self.connections = []
        self.tenth = asyncio.Event()


@pytest.fixture
def script():
    return Script()


@pytest.fixture
async def client(script):
    server = await asyncio.get_running_loop().create_server(lambda: Server(script), "127.0.0.1", 0)
    client = Client(*server.sockets[0].getsockname())
    yield client
    client.close()
    server.close()
    for transport in script.connections:
        transport.abort()
    await asyncio.sleep(0)


async def test_a_reply_is_read_with_its_decision_headers(client, script):
    (sent,) = await client.run([planned(CHAT)])
    assert sent.ok
    assert sent.in_deadline
    assert (sent.worker, sent.region, sent.variant, sent.attempts) == ("n1", "eu", "fp32", 2)
    assert (sent.predicted, sent.cost, sent.request_id) == (0.0125, 2e-6, "r-1")
    assert b"x-deadline-ms: 200\r\nx-min-quality: 0.9\r\n" in script.received[0]
    assert b"x-route-explain: 1\r\n" in script.received[0]


def test_every_deadline_and_the_session_travel_as_headers():
    kind = Class(name="k", first_token_s=0.4, token_interval_s=0.0255, probability=0.99)
    made = message(Planned(0, 0.0, kind, 3, 4, 1, seed=1, session="session-7"))
    assert dict(made.headers) == {
        "x-route-explain": "1", "x-slo-ttft-ms": "400", "x-slo-tpot-ms": "25.5", "x-deadline-probability": "0.99",
        "x-session-id": "session-7",
    }  # fmt: skip


async def test_requests_one_after_another_share_a_connection(client, script):
    await client.run([planned(CHAT, 0.0), planned(CHAT, 0.05), planned(CHAT, 0.10)])
    assert len(script.connections) == 1


async def test_time_counts_from_when_it_was_meant_to_leave(client):
    """The plan is half a second behind before it starts: an honest clock shows the half second."""
    late = await client.send(planned(CHAT), asyncio.get_running_loop().time() - 0.5)
    assert late.took >= 0.5
    assert not late.in_deadline


async def test_a_stalled_server_does_not_hold_the_plan_back(client, script):
    patient = Class(name="p", surface=Surface.EMBEDDING, model="m", total_s=0.01)
    script.replies = [None]
    demand = Demand(classes=(patient,), arrivals=Arrivals(process=Process.EVEN))
    running = asyncio.ensure_future(client.run(demand.plan(200, 0.05)))
    async with asyncio.timeout(2):
        await script.tenth.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", "connection lost"),
        (b"nonsense\r\n\r\n", "bad reply"),
        (b'HTTP/1.1 503 X\r\ncontent-length: 33\r\n\r\n{"error":{"code":"no_capacity"}}\n', "no_capacity"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops", "500"),
    ],
)
async def test_failures_are_reported_by_name(client, script, reply, error):
    script.replies = [reply]
    (sent,) = await client.run([planned(CHAT)])
    assert not sent.ok
    assert sent.error.startswith(error)


@pytest.mark.parametrize(
    ("reply", "ok"),
    [
        (stream(EVENT, b"data: [DONE]\n\n"), True),
        (stream(EVENT), False),
        (stream(EVENT, b'data: {"error":{"code":"stream_interrupted"}}\n\n'), False),
    ],
)
async def test_a_stream_is_complete_only_with_done_and_no_error(client, script, reply, ok):
    script.replies = [reply]
    (sent,) = await client.run([planned(Class(name="s", surface=Surface.CHAT_STREAM, model="m"))])
    assert sent.ok is ok


@pytest.mark.parametrize(
    ("surface", "path", "field"),
    [
        (Surface.CHAT, "/v1/chat/completions", "messages"),
        (Surface.CHAT_STREAM, "/v1/chat/completions", "stream"),
        (Surface.COMPLETION, "/v1/completions", "prompt"),
        (Surface.EMBEDDING, "/v1/embeddings", "input"),
        (Surface.INFER, "/v2/models/m/infer", "inputs"),
    ],
)
def test_every_surface_has_its_path_and_body(surface, path, field):
    made = message(planned(Class(name="k", surface=surface, model="m")))
    assert made.path == path
    assert json.loads(made.body)[field]
    assert made.encode("h:1").startswith(f"POST {path} HTTP/1.1\r\nhost: h:1\r\n".encode())


async def test_a_refused_connection_is_a_failure(script):
    client = Client("127.0.0.1", 9)
    (sent,) = await client.run([planned(CHAT)])
    assert not sent.ok
    assert sent.error
