"""Where a gateway's news of a load comes from: real worker, real gateway, and a registry that has stopped.

With the registry frozen and the periodic probes an hour apart, nothing but answers and asked-for probes can bring any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import aiohttp
import pytest

from gateway import config
from gateway.app import Gateway
from loadtests.embedded import ONE_THREAD
from loadtests.processes import isochrone
from policies.worker import WorkerState
from tests.integration.stage import Stage

CHAT = {"model": "tinychat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


class Cut:
    """A gateway in this process and the one worker it knows, its registry frozen."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession, url: str) -> None:
        self.gateway = gateway
        self._session = session
        self._url = url

    @property
    def state(self) -> WorkerState:
        return self.gateway.fleet.workers["w"]

    @property
    def seq(self) -> int:
        assert self.state.load is not None
        return self.state.load.seq

    def now(self) -> float:
        return self.gateway.plane.clock()

    def counted(self, name: str) -> int:
        return self.gateway.telemetry.value(name)

    async def chat(self, **fields: Any) -> tuple[dict[str, str], bytes]:
        async with self._session.post(f"{self._url}/v1/chat/completions", json=CHAT | fields) as answer:
            assert answer.status == 200
            return {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.01))])


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(config.load(path), path)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(gateway.run(ready.set_result))
    await asyncio.wait({work, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield gateway, (await ready).split()[1]
    finally:
        gateway.stop()
        await asyncio.wait_for(work, 20)


@pytest.fixture
async def cut(tmp_path: Path) -> AsyncIterator[Cut]:
    with Stage() as stage:
        command = isochrone(
            "worker", "serve", "--id", "w", "--region", "home", "--price-hour", "1", "--model", "tinychat",
            "--variants", "fp32", "--host", "127.0.0.1", "--port", "0", "--redis", str(stage.redis),
        )  # fmt: skip
        stage.spawn("w", command, ONE_THREAD).wait_ready(60)
        path = tmp_path / "gateway.yaml"
        settings = {"id": "gw", "region": "home", "redis": stage.redis, "probes": {"interval_s": 60.0},
                    "listen": {"port": 0}, "control": {"port": 0}}  # fmt: skip
        path.write_text(json.dumps(settings))
        async with running(path) as (gateway, url), aiohttp.ClientSession() as session:
            workers = gateway.fleet.workers
            await until(lambda: "w" in workers and workers["w"].load is not None and workers["w"].rtt.samples > 0)
            stage.registry.send(SIGSTOP)
            cut = Cut(gateway, session, url)
            await until(lambda: cut.now() - cut.state.load_at > 1.0)  # what was under way has arrived
            yield cut
            stage.registry.send(SIGCONT)


async def test_without_a_heartbeat_an_answer_makes_the_load_fresh(cut: Cut) -> None:
    seq, asked_at, probes = cut.seq, cut.now(), cut.counted("probing.periodic")
    headers, _ = await cut.chat()
    assert cut.state.load_at > asked_at
    assert cut.seq > seq
    assert cut.state.load is not None
    assert (cut.state.load.arrived, cut.state.load.running, cut.state.load.waiting) == (1, 0, 0)
    assert "endpoint-load-metrics" not in headers
    assert (cut.counted("reports.taken"), cut.counted("probing.periodic")) == (1, probes)


async def test_a_stream_tells_twice_and_its_client_nothing(cut: Cut) -> None:
    headers, body = await cut.chat(stream=True)
    assert cut.counted("reports.taken") == 2
    assert cut.state.load is not None
    assert (cut.state.load.arrived, cut.state.load.running) == (1, 0)
    assert "endpoint-load-metrics" not in headers
    assert b": load" not in body
    assert b": timing" in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_asked_for_probe_makes_the_load_fresh_within_its_round_trip(cut: Cut) -> None:
    seq, asked_at, probes = cut.seq, cut.now(), cut.counted("probing.periodic")
    cut.gateway.plane.ask(("w", "unknown"))
    assert cut.seq == seq, "nobody waits for it"
    await until(lambda: cut.seq > seq)
    assert asked_at < cut.state.load_at < cut.now()
    assert (cut.counted("probing.asked"), cut.counted("probing.periodic")) == (1, probes)
