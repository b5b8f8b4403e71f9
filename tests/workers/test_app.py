import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import aiohttp
import grpc.aio
import msgspec
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policies import records
from tests.workers.attach import engine
from tests.workers.fakes import Echo, tensor_entry, text_entry, until
from tests.workers.nvml import Card, Nvml
from workers import app
from workers.attach.openai import OpenAI
from workers.catalog import Catalog
from workers.config import AttachConfig, ConfigError, Placement, ServeConfig
from workers.devices import devices
from workers.monitor import Monitor
from workers.proto import messages
from workers.proto.health import NOT_SERVING, SERVING


@contextlib.asynccontextmanager
async def process(*arguments):
    """`isochrone worker ...` as a process that has said its ready line; the line's URL, and the process."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", *arguments, stdout=subprocess.PIPE, env=environment
    )
    try:
        line = await asyncio.wait_for(started.stdout.readline(), 20)
        yield line.decode().removeprefix("ready ").strip(), started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        started._transport.close()


def stored(client, worker_id="w1", region="eu-1"):
    node = client.get(records.node_key(region, worker_id))
    load = client.get(records.load_key(region, worker_id))
    return node and records.open_worker(node, None), load and records.decode_load(load)


def serve(redis_server, *models, **options):
    arguments = ["serve", "--region", "eu-1", "--id", "w1", "--redis", redis_server.url, "--price-hour", "2"]
    for model in models:
        arguments += ["--model", model]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    return process(*arguments)


@pytest.mark.slow
async def test_ready_means_registered_and_serving(redis_server):
    async with serve(redis_server, "digits", "tinychat", variants="int8,fp32") as (url, _):
        with redis_server.client() as client:
            worker, load = stored(client)
        assert f"http://{worker.address}" == url
        assert [(e.model, e.variant) for e in worker.endpoints] == [
            *(("digits", variant) for variant in ("int8", "fp32")),
            *(("tinychat", variant) for variant in ("int8", "fp32")),
        ]
        assert worker.price == records.MarginalPrice(usd_per_hour=2.0)
        assert (load.worker, load.waiting, load.draining) == ("w1", 0, False)
        pixels = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/v2/models/digits/infer", json={"inputs": [pixels]}) as reply:
                answer = await reply.json()
            assert answer["outputs"][0]["shape"] == [1, 10]
            async with session.get(f"{url}/healthz") as reply:
                assert json.loads(await reply.read())["boot"] == worker.boot
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ai:
            said = await ai.chat.completions.create(
                model="tinychat", messages=[{"role": "user", "content": "Hello"}], max_tokens=5, temperature=0
            )
        assert said.choices[0].message.content


@pytest.mark.slow
async def test_sigterm_finishes_the_stream_in_flight_refuses_new_work_and_leaves_the_registry(redis_server):
    async with (
        serve(redis_server, "tinychat") as (url, started),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ai,
    ):
        asked = {"model": "tinychat", "prompt": "Tell me", "extra_body": {"ignore_eos": True}}
        stream = await ai.completions.create(max_tokens=450, stream=True, **asked)
        await anext(aiter(stream))
        started.send_signal(signal.SIGTERM)
        with redis_server.client() as client:
            await until(lambda: (load := stored(client)[1]) is None or load.draining)
            rest = [chunk async for chunk in stream]
            assert rest[-1].choices[0].finish_reason == "length"
            assert len(rest) > 100
            assert await asyncio.wait_for(started.wait(), 5) == 0
            assert stored(client) == (None, None)
            assert client.sismember(records.ids_key("eu-1"), "w1"), "only gateways remove ids"


@pytest.mark.slow
async def test_while_it_drains_new_requests_are_refused_unexecuted(redis_server):
    async with serve(redis_server, "tinychat") as (url, started), aiohttp.ClientSession() as session:
        body = {"model": "tinychat", "prompt": "Tell me", "max_tokens": 480, "stream": True, "ignore_eos": True}
        async with session.post(f"{url}/v1/completions", json=body) as first:
            await first.content.readline()
            started.send_signal(signal.SIGINT)
            statuses = []
            async with asyncio.timeout(5):
                while 503 not in statuses:
                    async with session.post(f"{url}/v1/completions", json=body | {"max_tokens": 1}) as second:
                        statuses.append(second.status)
                        headers = second.headers
            assert headers["x-isochrone-executed"] == "0"
            assert b"[DONE]" in await first.read()
        assert await asyncio.wait_for(started.wait(), 5) == 0


@pytest.mark.slow
async def test_redis_flushed_frozen_and_killed_costs_no_request(redis_server):
    pixels = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    statuses = []

    async def ask_on(session, url):
        while True:
            async with session.post(f"{url}/v2/models/digits/infer", json={"inputs": [pixels]}) as reply:
                statuses.append(reply.status)
                await reply.read()
            await asyncio.sleep(0.005)

    async with serve(redis_server, "digits") as (url, _), aiohttp.ClientSession() as session:
        asking = asyncio.ensure_future(ask_on(session, url))
        with redis_server.client() as client:
            client.flushall()
            await until(lambda: None not in stored(client), seconds=1.0)
        redis_server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.6)
        redis_server.process.send_signal(signal.SIGCONT)
        redis_server.stop()
        seen = len(statuses)
        await until(lambda: len(statuses) > seen + 50)
        redis_server.start()
        with redis_server.client() as client:
            await until(lambda: None not in stored(client))
        asking.cancel()
        await asyncio.wait([asking])
    assert set(statuses) == {200}


@pytest.mark.slow
async def test_attach_registers_the_engine_itself_under_the_names_it_lists(redis_server):
    async with engine.running() as vllm:
        vllm.models = ["org/chat", "org/embed"]
        vllm.waiting = 20
        place = ["--region", "us-1", "--id", "v1", "--price-hour", "3", "--redis", redis_server.url]
        async with process("attach", vllm.url, "--engine", "vllm", *place) as (url, started):
            with redis_server.client() as client:
                worker, load = stored(client, "v1", "us-1")
                assert f"http://{worker.address}" == vllm.url == url
                assert (worker.engine, worker.health_path, worker.variant_header) == ("vllm", "/health", False)
                assert [endpoint.model for endpoint in worker.endpoints] == ["org/chat", "org/embed"]
                assert (load.waiting, load.running, load.backlog) == (20, 0, None)
                started.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(started.wait(), 5) == 0
                assert stored(client, "v1", "us-1") == (None, None)


@pytest.mark.slow
async def test_attach_with_a_proxy_registers_the_proxy_and_drains_it(redis_server):
    async with engine.running() as vllm:
        place = ["--region", "us-1", "--id", "v1", "--redis", redis_server.url, "--max-batch", "1"]
        async with process("attach", vllm.url, "--engine", "openai", "--proxy", *place) as (url, started):
            with redis_server.client() as client:
                worker, load = stored(client, "v1", "us-1")
                assert f"http://{worker.address}" == url != vllm.url
                assert (load.waiting, load.running) == (0, 0), "counted, though the engine cannot say"
                async with aiohttp.ClientSession() as session, session.get(url + worker.health_path) as got:
                    assert (await got.json())["data"][0]["id"] == "m"
                started.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(started.wait(), 5) == 0
                assert stored(client, "v1", "us-1") == (None, None)


@contextlib.asynccontextmanager
async def stopping(engine, **config):
    """A worker in this process with a long stream in flight; yields what stops it and its run."""
    stop, lines = app.Stop(asyncio.Event(), asyncio.Event()), []
    settings = ServeConfig(placement=Placement(region="r"), **config)
    run = asyncio.ensure_future(app.run(Catalog([text_entry(engine)]), settings, lines.append, stop))
    await until(lambda: lines)
    url = lines[0].removeprefix("ready ")
    body = {"model": "echo", "prompt": "ab", "max_tokens": 500, "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as reply:
        assert reply.status == 200
        yield stop, run
    await run


async def test_a_second_signal_ends_the_drain():
    async with stopping(Echo(pause=0.05)) as (stop, run):
        stop.asked.set()
        done, _ = await asyncio.wait([run], timeout=0.3)
        assert not done, "it waits for the stream"
        stop.now.set()
        await asyncio.wait_for(asyncio.shield(run), 3)


async def test_a_drain_has_its_time():
    async with stopping(Echo(pause=0.05), drain_seconds=0.1) as (stop, run):
        stop.asked.set()
        await asyncio.wait_for(asyncio.shield(run), 3)


@pytest.mark.slow
async def test_grpc_is_registered_with_what_the_model_takes_and_drains_with_the_rest(redis_server):
    async with serve(redis_server, "digits", variants="int8", grpc_port=0) as (said, started):
        url, _, address = said.partition(" grpc ")
        with redis_server.client() as client:
            worker, _ = stored(client)
        assert (f"http://{worker.address}", worker.grpc_address) == (url, address)
        assert worker.endpoints[0].inputs == (records.TensorSpec("pixels", "FP32", (-1, 64)),)
        async with grpc.aio.insecure_channel(address) as channel:
            watch = channel.unary_stream(
                f"/{messages.HEALTH}/Watch",
                request_serializer=messages.HealthCheckRequest.SerializeToString,
                response_deserializer=messages.HealthCheckResponse.FromString,
            )(messages.HealthCheckRequest(service=messages.INFERENCE))
            assert (await watch.read()).status == SERVING
            started.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
        assert await asyncio.wait_for(started.wait(), 5) == 0


async def test_a_taken_grpc_port_ends_the_start():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServeConfig(placement=Placement(region="r"), grpc_port=taken.getsockname()[1])
        stop = app.Stop(asyncio.Event(), asyncio.Event())
        with pytest.raises(OSError, match="cannot listen for gRPC"):
            await app.run(Catalog([text_entry(Echo())]), settings, print, stop)


async def test_a_curve_that_its_traffic_refutes_is_written_anew_signed_and_newer(redis_server, tmp_path, monkeypatch):
    """A model said to take 10 ms takes none."""
    monkeypatch.setattr(app, "REFRESH_SECONDS", 0.05)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "worker-key.pem").write_bytes(pem)

    def verify(name, message, signature):
        key.public_key().verify(signature, message)
        return records.Scope()

    def written(client):
        return records.open_worker(client.get(records.node_key("eu-1", "w1")), verify)

    place = Placement(region="eu-1", id="w1", redis=redis_server.url, key=tmp_path / "worker-key.pem")
    stop, lines = app.Stop(asyncio.Event(), asyncio.Event()), []
    run = asyncio.ensure_future(app.run(Catalog([tensor_entry()]), ServeConfig(placement=place), lines.append, stop))
    await until(lambda: lines)
    with redis_server.client() as client:
        first = written(client)
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]},
                           {"name": "k", "shape": [1, 1], "datatype": "INT64", "data": [1]}]}  # fmt: skip
        async with aiohttp.ClientSession() as session:
            for _ in range(30):
                async with session.post(lines[0].split()[1] + "/v2/models/double/infer", json=body) as reply:
                    assert reply.status == 200
        await until(lambda: written(client) != first)
        second = written(client)
    stop.asked.set()
    await run
    assert second.seq > first.seq
    (told,), (found,) = first.endpoints, second.endpoints
    assert found.curve.base < 0.8 * told.curve.base
    assert msgspec.structs.replace(second, seq=first.seq, endpoints=first.endpoints) == first
    assert msgspec.structs.replace(found, curve=told.curve) == told


def attach_config(**fields):
    told = {"url": "http://127.0.0.1:1", "engine": "openai", "prefill_tps": 1.0, "decode_tps": 1.0, "max_batch": 1}
    return AttachConfig(placement=Placement(region="r", redis="redis://127.0.0.1:1"), **(told | fields))


async def test_an_engine_that_lists_nothing_needs_names():
    async with engine.running() as vllm:
        vllm.models = []
        with pytest.raises(ConfigError, match="--model"):
            await app.attach(attach_config(url=vllm.url), print)


async def test_an_engine_that_is_not_up_yet_is_waited_for(caplog, monkeypatch):
    monkeypatch.setattr(app, "LISTING_PAUSE", 0.01)

    class Rising:
        """An adapter whose engine is up at the third question."""

        asked = 0

        async def models(self):
            self.asked += 1
            if self.asked < 3:
                raise aiohttp.ClientConnectionError("refused")
            return ["chat"]

    stop = app.Stop(asyncio.Event(), asyncio.Event())
    assert await app.names("http://e:1", Rising(), stop) == (("chat", "chat"),)
    assert caplog.text.count("no engine answers at http://e:1 (refused): waiting for it") == 1
    assert "the engine at http://e:1 answers" in caplog.text


async def test_waiting_for_an_engine_ends_when_told_to_stop():
    stop = app.Stop(asyncio.Event(), asyncio.Event())
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.ensure_future(app.names("http://e:1", OpenAI(session, "http://127.0.0.1:1"), stop))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        stop.asked.set()
        assert await asyncio.wait_for(waiting, 3) == ()


async def test_endpoints_are_as_told():
    told = attach_config(models=(("chat", "org/Chat"),), variant="bf16", quality=0.9)
    (endpoint,) = await app.listed(told, None, None)
    assert (endpoint.model, endpoint.served_name, endpoint.variant, endpoint.quality) == (
        "chat",
        "org/Chat",
        "bf16",
        0.9,
    )


async def test_nothing_to_serve_is_a_mistake():
    with pytest.raises(ConfigError, match="nothing to serve"):
        await app.serve(ServeConfig(placement=Placement(region="r")), print)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://e:8000", "e:8000"),
        ("http://e:8000/v1", "e:8000"),
        ("e:8000", "e:8000"),
        ("http://e", "e:80"),
        ("http://[::1]:8000/", "[::1]:8000"),
    ],
)
def test_engine_addresses(url, address):
    assert app.engine_address(url) == (f"http://{address}", address)


@pytest.mark.parametrize("url", ["https://e:1", "http://e:1/api", "http://e:99999", "http://e:1?a=b", "http://"])
def test_other_engine_urls_are_refused(url):
    with pytest.raises(ConfigError):
        app.engine_address(url)


@pytest.fixture
def cards(monkeypatch):
    """Two cards of 80 GB, the second split in two; what CUDA may see is put back."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    parts = [Card("MIG-a", total=10 * 10**9), Card("MIG-b", total=40 * 10**9)]
    monkeypatch.setattr(app, "load_nvml", lambda: Nvml(Card("GPU-0", total=80 * 10**9), Card("GPU-1", instances=parts)))


def test_a_worker_sees_the_device_it_was_given_alone(cards):
    device = app.accelerator("MIG-b")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == device.uuid == "MIG-b"
    assert app.accelerator("0").uuid == "GPU-0"
    assert app.accelerator("cpu") is None


def test_a_device_that_is_not_there_is_refused_at_start(cards, monkeypatch):
    with pytest.raises(ConfigError, match=r"--device: no device '3': this machine has 0 .*MIG-a.*MIG-b"):
        app.accelerator("3")
    monkeypatch.setattr(app, "load_nvml", lambda: None)
    with pytest.raises(ConfigError, match="install nvidia-ml-py, or use --device cpu"):
        app.accelerator("0")


def test_a_worker_may_take_what_it_asked_for_of_its_device(cards):
    def told(**settings):
        config = ServeConfig(placement=Placement(region="r"), **settings)
        return app.allotment(config, app.accelerator(config.device))

    assert told().device == "cpu"
    found = told(device="0", memory_gb=20, weights=(("int8", 2.0),))
    assert (found.device, found.limit, found.weights, found.providers) == ("cuda", 20 * 10**9, {"int8": 2.0}, ("cuda",))
    assert told(device="MIG-a").limit < 10 * 10**9
    with pytest.raises(ConfigError, match="--memory-gb 20"):
        told(device="MIG-a", memory_gb=20)


def test_what_the_device_says_of_itself_stands_in_the_record_unless_told_otherwise(cards):
    device = app.accelerator("0")
    placement = app.placed(Placement(region="r"), device)
    assert (placement.accelerator, placement.power_watts) == ("NVIDIA H100 80GB HBM3", 700.0)
    assert app.placed(Placement(region="r", accelerator="mine", power_watts=300.0), device).accelerator == "mine"


async def test_a_worker_short_of_memory_refuses_and_says_so_and_an_engine_is_closed_at_the_end():
    card, closed = Card(total=100, used=99), []
    [device] = devices(Nvml(card))
    monitor = Monitor(device)
    await monitor.look()
    entry = tensor_entry()._replace(close=lambda: closed.append(True))
    stop = app.Stop(asyncio.Event(), asyncio.Event())
    said = asyncio.Queue()
    config = ServeConfig(placement=Placement(region="r"), drain_seconds=0.1)
    serving = asyncio.ensure_future(app.run(Catalog([entry]), config, said.put_nowait, stop, monitor))
    url = (await said.get()).split()[1]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
                       {"name": "k", "datatype": "INT64", "shape": [1, 1], "data": [0]}]}  # fmt: skip
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v2/models/double/infer", json=body) as answer:
            assert (answer.status, answer.headers["x-isochrone-executed"]) == (503, "0")
            assert "short of memory" in await answer.text()
        card.used = 10
        await monitor.look()
        async with session.post(f"{url}/v2/models/double/infer", json=body) as answer:
            assert answer.status == 200
    stop.asked.set()
    await serving
    assert closed == [True]
