"""The composition: a gateway in this process that starts, learns, survives its registry, reloads and drains."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import pytest
from aiohttp import web

from gateway import app as module
from gateway import config as configuration
from gateway import snapshot
from gateway.app import Gateway, end, url
from policies.records import encode_load, seal_worker
from policies.request import RoundTrip
from tests.gateway.conftest import RedisProcess
from tests.gateway.desk import Desk
from tests.gateway.edge.rpcs import infers, node
from tests.gateway.members import load, worker
from workers.proto import messages

CHAT = {"model": "digits", "messages": [{"role": "user", "content": "hi"}]}


class Running:
    """A gateway at work, and a client of both its ports."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession, ready: str) -> None:
        self.gateway = gateway
        self._session = session
        _, self.data, _, self.control, *grpc = ready.split()
        self.grpc = grpc[-1] if grpc else None
        """Where gRPC is spoken."""

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self.control + path) as answer:
            return answer.status, await answer.json()

    async def chat(self, **headers: str) -> tuple[int, Any]:
        async with self._session.post(self.data + "/v1/chat/completions", json=CHAT, headers=headers) as answer:
            return answer.status, await answer.json()

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.01))])


@contextlib.asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[Running]:
    """Start a gateway from a file with these settings; it is drained at the end."""
    given = {"id": "gw1", "region": "eu-west", "listen": {"port": 0}, "control": {"port": 0}} | settings
    path.write_text(json.dumps(given))  # noqa: ASYNC240 (before anything runs)
    gateway = Gateway(configuration.load(path), path)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(gateway.run(ready.set_result))
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(5):
            await asyncio.wait({work, ready}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work  # it could not start: raise why
        yield Running(gateway, session, ready.result())
    gateway.stop()
    async with asyncio.timeout(10):
        await work


@pytest.fixture
async def stub() -> AsyncIterator[str]:
    """The address of a worker that answers everything."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(body=encode_load(load("w1", 10**6)))
        if request.headers.get("x-slow"):
            await asyncio.sleep(float(request.headers["x-slow"]))
        return web.json_response({"answer": 42}, headers={"server-timing": "queue;dur=1, prefill;dur=2, accel;dur=3"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_request_through_the_whole_process(tmp_path: Path, redis_process: RedisProcess, stub: str) -> None:
    desk = Desk(redis_process.url)
    async with running(tmp_path / "g.yaml", redis=redis_process.url) as at:
        await desk.redis.publish("iso:{eu-west}:changes:w1", b"node " + seal_worker(worker("w1", address=stub)))
        await at.until(lambda: "w1" in at.gateway.fleet.workers, 1.0)
        status, answer = await at.chat(**{"x-request-id": "r1", "x-deadline-ms": "5000"})
        assert (status, answer) == (200, {"answer": 42})
        status, told = await at.get("/admin/explain/r1")
        assert status == 200
        assert told["attempts"][0]["node"] == "w1/digits:fp32"
        assert told["attempts"][0]["actual"]["accelerator_ms"] == 3.0
        await at.until(lambda: at.gateway.fleet.workers["w1"].rtt.samples > 0)  # the probes follow it
    await desk.redis.aclose()


async def test_a_call_by_grpc_through_the_whole_process(tmp_path: Path, redis_process: RedisProcess) -> None:
    desk = Desk(redis_process.url)
    listen = {"port": 0, "grpc_port": 0}
    async with (
        node("w1", region="eu-west") as w1,
        running(tmp_path / "g.yaml", redis=redis_process.url, listen=listen) as at,
    ):
        await desk.redis.publish("iso:{eu-west}:changes:w1", b"node " + seal_worker(w1.record))
        await at.until(lambda: "w1" in at.gateway.fleet.workers, 1.0)
        async with grpc.aio.insecure_channel(at.grpc) as channel:
            call = channel.unary_unary(f"/{messages.INFERENCE}/ModelInfer")
            raw = await call(infers().SerializeToString(), metadata=[("x-request-id", "r1")])
        assert messages.ModelInferResponse.FromString(raw).model_version == "fp32"
        _, told = await at.get("/admin/explain/r1")
        assert (told["attempts"][0]["node"], told["protocol"]) == ("w1/double:fp32", "grpc")
    await desk.redis.aclose()


async def test_redis_gone_the_answers_stay(tmp_path: Path, redis_process: RedisProcess, stub: str) -> None:
    path = tmp_path / "fleet.snapshot"
    async with running(tmp_path / "g.yaml", redis=redis_process.url, snapshot=str(path)) as at:
        gateway = at.gateway
        await at.until(lambda: gateway.registry.standings()[0].live)
        gateway.roster.record("eu-west", None, seal_worker(worker("w1", address=stub)), gateway.plane.clock())
        redis_process.kill()
        await at.until(lambda: not gateway.registry.standings()[0].live)
        for _ in range(20):
            assert (await at.chat())[0] == 200
        status, told = await at.get("/readyz")
        assert (status, told["registry"]) == (200, "stale")
    assert isinstance(snapshot.load(path), snapshot.Snapshot)
    async with running(tmp_path / "g.yaml", redis=redis_process.url, snapshot=str(path)) as at:
        assert (await at.chat())[0] == 200  # a cold start without Redis
        assert at.gateway.roster.doubted == ["w1"]


async def test_a_corrupt_snapshot_is_counted_and_the_start_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "fleet.snapshot"
    path.write_bytes(b"{half")
    async with running(tmp_path / "g.yaml", snapshot=str(path)) as at:
        assert at.gateway.telemetry.value("snapshot.corrupt") == 1
        assert (await at.get("/readyz"))[0] == 200
    assert path.read_bytes() == b"{half"  # an empty fleet replaces nothing


async def test_an_unsure_fleet_is_not_written_down(tmp_path: Path) -> None:
    path = tmp_path / "fleet.snapshot"
    async with running(tmp_path / "g.yaml", redis="redis://127.0.0.1:1", snapshot=str(path)) as at:
        roster = at.gateway.roster
        roster.restore([seal_worker(worker("w1"))], 0.0)
        await at.gateway._save()
        assert not path.exists()
        roster.load("eu-west", load("w1"), 0.0, 1.0)
        await at.gateway._save()
        assert path.exists()


async def test_a_reload_swaps_whole_or_not_at_all(tmp_path: Path, stub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    path = tmp_path / "g.yaml"
    async with running(path, redis="redis://127.0.0.1:1") as at:
        gateway = at.gateway
        gateway.roster.record("eu-west", None, seal_worker(worker("w1", address=stub)), 0.0)
        slow = asyncio.ensure_future(at.chat(**{"x-slow": "0.3"}))
        await at.until(lambda: gateway.plane.router.open == 1 or slow.done())
        old = gateway.plane.router
        given = json.loads(path.read_text())
        path.write_text(json.dumps(given | {"routes": [{"match": {"model": "other"}}], "decision_headers": "always"}))
        await at.until(lambda: gateway.reload.generation.number == 2)
        assert gateway.plane.router is not old
        assert gateway.plane.decision_headers == "always"
        assert gateway.plane.router.fleet is gateway.fleet
        assert (await slow)[0] == 200  # in flight over the swap, reported once
        assert gateway.plane.router.open == 0
        assert (await at.chat())[0] == 404
        path.write_text(json.dumps(given | {"nonsense": 1}))
        await at.until(lambda: bool(gateway.reload.generation.refused))
        assert (await at.chat())[0] == 404  # the old one stays
        _, told = await at.get("/healthz")
        assert told["config"]["number"] == 2
        assert "$.nonsense" in told["config"]["refused"]


async def test_a_drain_finishes_what_has_begun(tmp_path: Path, stub: str) -> None:
    async with running(tmp_path / "g.yaml", redis="redis://127.0.0.1:1") as at:
        at.gateway.roster.record("eu-west", None, seal_worker(worker("w1", address=stub)), 0.0)
        slow = asyncio.ensure_future(at.chat(**{"x-slow": "0.5"}))
        await at.until(lambda: at.gateway.plane.router.open == 1 or slow.done())
        at.gateway.stop()
        await at.until(lambda: at.gateway.plane.draining)
        assert (await at.get("/readyz"))[0] == 503
        assert (await slow)[0] == 200


async def test_the_second_stop_does_not_wait(tmp_path: Path, stub: str) -> None:
    async with running(tmp_path / "g.yaml", redis="redis://127.0.0.1:1") as at:
        at.gateway.roster.record("eu-west", None, seal_worker(worker("w1", address=stub)), 0.0)
        slow = asyncio.ensure_future(at.chat(**{"x-slow": "60"}))
        await at.until(lambda: at.gateway.plane.router.open == 1)
        at.gateway.stop()
        at.gateway.stop()
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(slow, 5)


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path / "g.yaml") as at:
        port = int(at.data.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with running(tmp_path / "h.yaml", listen={"port": port}):
                pass
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_a_fault_in_a_loop_or_a_change_is_counted_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.01)
    async with running(tmp_path / "g.yaml", redis="redis://127.0.0.1:1") as at:
        ticks = iter([None, None])

        def broken(now: float) -> None:
            if next(ticks, 1) is None:
                raise RuntimeError("a bug")

        monkeypatch.setattr(at.gateway.plane.router, "tick", broken)
        await at.until(lambda: at.gateway.telemetry.value("loop.faults") == 2)
        monkeypatch.setattr(at.gateway.plane.router, "observe", lambda change, now: 1 / 0)
        at.gateway.roster.record("eu-west", None, seal_worker(worker("w1")), 0.0)
        at.gateway.measured(RoundTrip("w1", 0.1), 0.0)
        assert at.gateway.telemetry.value("loop.faults") == 4
        assert (await at.get("/healthz"))[0] == 200


async def test_end_insists() -> None:
    stubborn = 2

    async def work() -> None:
        nonlocal stubborn
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stubborn -= 1
                if stubborn == 0:
                    raise

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()


def test_urls() -> None:
    assert url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url("::1", 80) == "http://[::1]:80"


async def test_what_a_route_weighs_beside_prices_follows_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text('registries: {eu-west: "redis://127.0.0.1:1"}\nroutes: [{cost: {energy_usd_per_kwh: 3.6}}]\n')
    gateway = Gateway(configuration.load(path), path)
    record = msgspec.structs.replace(worker("w1"), power_watts=1000.0)
    gateway.roster.record("eu-west", None, seal_worker(record), 1.0)
    (node,) = gateway.fleet.nodes()
    assert node.extra == pytest.approx(1e-3), "a kilowatt for a second"
    path.write_text('registries: {eu-west: "redis://127.0.0.1:1"}\n')
    assert await gateway.reload.reload()
    assert node.extra == 0.0
