"""Requests that wait at the gateway for room: gateway processes, a real worker, and one with a queue of seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from signal import SIGCONT, SIGSTOP
from typing import Any

import aiohttp
import pytest

from loadtests.embedded import ONE_THREAD
from loadtests.processes import Child, isochrone
from tests.integration.stage import MODEL, Stage, until

SHORT: dict[str, Any] = {"model": "tinychat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
LONG = SHORT | {"max_tokens": 480, "ignore_eos": True, "stream": True}
SLOW = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
PATIENT = {"x-deadline-ms": "60000", "x-route-explain": "1"}
SERVICE_MS = 1500


class Door:
    """A gateway process, as a client and an operator see it."""

    def __init__(self, stage: Stage, gateway: Any, session: aiohttp.ClientSession) -> None:
        self._stage, self._gateway, self._session = stage, gateway, session
        self.begun: list[asyncio.Future[Any]] = []

    async def ask(self, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(f"{self._gateway.url}/v1/chat/completions", json=body, headers=sent) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()

    def begin(self, body: dict[str, Any], **headers: str) -> asyncio.Future[Any]:
        self.begun.append(asyncio.ensure_future(self.ask(body, **headers)))
        return self.begun[-1]

    async def explain(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        async with self._session.post(
            f"{self._gateway.control}/admin/explain", json={"body": body, "headers": headers}
        ) as told:
            return await told.json()

    async def metric(self, name: str) -> float:
        return (await asyncio.to_thread(self._stage.metrics, self._gateway)).get(f"isochrone_{name}", 0.0)

    async def until(self, name: str, value: float) -> None:
        def there() -> bool:
            return self._stage.metrics(self._gateway).get(f"isochrone_{name}", 0.0) == value

        await asyncio.to_thread(until, there, 20.0)


@contextlib.asynccontextmanager
async def door(stage: Stage, workers: int = 1, **route: Any) -> AsyncIterator[Door]:
    gateway = stage.start_gateway("europe-west4", routes=[{"when_infeasible": ["hold", "reject"]} | route])
    await asyncio.to_thread(stage.await_workers, gateway, workers)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        made = Door(stage, gateway, session)
        yield made
        for request in made.begun:
            request.cancel()
        await asyncio.gather(*made.begun, return_exceptions=True)


@pytest.fixture
def stage():
    with Stage() as made:
        yield made


def serve_tinychat(stage: Stage) -> Child:
    command = isochrone(
        "worker", "serve", "--id", "w", "--region", "europe-west4", "--price-hour", "1", "--model", "tinychat",
        "--variants", "fp32", "--host", "127.0.0.1", "--port", "0", "--redis", str(stage.redis),
    )  # fmt: skip
    child = stage.spawn("w", command, ONE_THREAD)
    child.wait_ready(60)
    return child


async def test_at_a_real_worker_one_waits_one_leaves_and_one_finds_the_line_full(stage: Stage) -> None:
    worker = serve_tinychat(stage)
    one_at_a_time = {"admission": {"max_in_flight": 1, "max_held": 2}}
    async with door(stage, policy=one_at_a_time) as gateway:
        running = gateway.begin(LONG)
        await gateway.until("in_flight", 1)
        for child in (stage.registry, worker):  # time stands still, and no lease ends
            child.send(SIGSTOP)
        waits, leaves = gateway.begin(SHORT, **PATIENT), gateway.begin(SHORT, **PATIENT)
        await gateway.until("requests_held", 2)
        status, headers, _ = await gateway.ask(SHORT, **PATIENT)
        assert (status, headers["retry-after"], running.done()) == (503, "1", False)
        leaves.cancel()
        await gateway.until("requests_held", 1)
        for child in (worker, stage.registry):
            child.send(SIGCONT)
        assert (await running)[0] == 200
        status, headers, body = await waits
        assert (status, headers["x-route-reason"]) == (200, "feasible")
        assert headers["server-timing"].startswith("hold;dur=")
        assert b'"choices"' in body
        assert await gateway.metric("requests_held") == await gateway.metric("in_flight") == 0
        ended = {how: await gateway.metric(f'held_total{{ending="{how}"}}') for how in ("sent", "left", "refused")}
        assert ended == {"sent": 1, "left": 1, "refused": 0}


async def test_what_a_queue_keeps_from_its_deadline_is_served_in_time_when_the_queue_goes(stage: Stage) -> None:
    stage.emulate("slow", base_ms=SERVICE_MS, max_batch=1)
    async with door(stage) as gateway:
        crowd = [gateway.begin(SLOW) for _ in range(6)]
        await gateway.until("in_flight", 6)
        wishes = {"x-deadline-ms": "8000", "x-route-explain": "1"}
        told = await gateway.explain(SLOW, **wishes)
        assert (told["decision"], told["chosen"], told["waiting"]) == ("hold", None, 0)
        waits = gateway.begin(SLOW, **wishes)
        await gateway.until("requests_held", 1)
        hopeless, headers, _ = await gateway.ask(SLOW, x_deadline_ms="500")
        assert (hopeless, "retry-after" in headers) == (429, False), "no wait makes a service shorter"
        for request in crowd[1:]:
            request.cancel()
        status, headers, _ = await waits
        assert (status, headers["x-route-reason"]) == (200, "feasible")
        assert await gateway.metric("held_seconds_count") == 1
        assert await gateway.metric('promises_total{kept="yes",probability="0.95",status="feasible"}') == 1


async def test_when_the_queue_does_not_go_the_client_hears_when_to_come_back(stage: Stage) -> None:
    stage.emulate("slow", base_ms=SERVICE_MS, max_batch=1)
    async with door(stage) as gateway:
        for _ in range(8):
            gateway.begin(SLOW)
        await gateway.until("in_flight", 8)
        status, headers, body = await gateway.ask(SLOW, x_deadline_ms="2500", x_max_wait_ms="300")
        assert (status, b"deadline_infeasible" in body) == (429, True)
        assert int(headers["retry-after"]) >= 1
        assert await gateway.metric('held_total{ending="refused"}') == 1
