"""A small stage for faults: a Redis, gateways and emulated workers without the WAN, all real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from loadtests import scenario
from loadtests.arrivals import Arrivals, Process
from loadtests.embedded import Embedded, fetch
from loadtests.live.client import Client, Connection, Message
from loadtests.processes import Child, free_ports
from loadtests.report import Sent
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Surface

MODEL = "emulated"


class Emulated:
    """One emulated worker."""

    def __init__(self, child: Child, url: str) -> None:
        self.child = child
        self.url = url

    def control(self, **change: Any) -> None:
        fetch(f"{self.url}/control", change)

    def log(self) -> list[dict[str, Any]]:
        return list(fetch(f"{self.url}/control/log"))


class Stage(Embedded):
    """An embedded fleet whose workers a test starts one by one."""

    def __init__(self, world: scenario.Scenario | None = None) -> None:
        super().__init__(world or scenario.load())
        self.start_redis()

    def emulate_workers(self, **options: Any) -> dict[str, Emulated]:
        """Emulate every worker of the scenario, behind the WAN."""
        ports = dict(
            zip((plan.id for plan in self.scenario.workers), free_ports(len(self.scenario.workers)), strict=True)
        )
        listens = self.start_wan(ports)
        return {
            plan.id: self.emulate(
                plan.id,
                plan.region,
                price_hour=plan.usd_per_hour,
                port=ports[plan.id],
                advertise=listens[plan.id],
                **options,
            )
            for plan in self.scenario.workers
        }

    @property
    def registry(self) -> Child:
        return next(child for child in self.children if child.name == "redis")

    def emulate(
        self, worker_id: str, region: str = "europe-west4", *, registered: bool = True, **options: Any
    ) -> Emulated:
        """Start an emulated worker; options are its command line's, with underscores, several models with commas."""
        command = [sys.executable, "-m", "loadtests.live.worker", "--id", worker_id, "--region", region]
        command += [f"--model={model}" for model in options.pop("model", MODEL).split(",")]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command += [f"--redis={self.redis}"] if registered else []
        child = self.spawn(worker_id, command)
        return Emulated(child, child.wait_ready(30).split()[1])

    def metrics(self, gateway: Any) -> dict[str, float]:
        """Every sample of a gateway's metrics page, by its name with labels."""
        with urllib.request.urlopen(f"{gateway.control}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextlib.contextmanager
def stage(workers: int = 3, policy: str = "round_robin", **options: Any) -> Iterator[tuple[Stage, Any, list[Emulated]]]:
    """A gateway in europe-west4 and some workers it knows; by default in turn, so that every one gets requests."""
    with Stage() as made:
        emulated = [made.emulate(f"w{number}", **options) for number in range(1, workers + 1)]
        gateway = made.start_gateway("europe-west4", policy=policy)
        made.await_workers(gateway, workers)
        yield made, gateway, emulated


def chat(gateway: Any, **fields: Any) -> dict[str, str]:
    """One chat completion; the reply's headers, lower case. Raises HTTPError."""
    headers = {"content-type": "application/json"} | {
        name.replace("_", "-"): str(value) for name, value in fields.pop("headers", {}).items()
    }
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4} | fields
    request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
        return {name.lower(): value for name, value in answer.headers.items()}


def under_load(gateway: Any, seconds: float, during: Callable[[], None], rate: float = 60.0) -> list[Sent]:
    """Send chat completions at a rate from a thread of their own; a second into it, call `during`."""
    demand = Demand(
        classes=(Class(name="chat", surface=Surface.CHAT, model=MODEL),),
        sizes=Ranges(prompt_tokens=(8, 24), output_tokens=(8, 24)),
        arrivals=Arrivals(process=Process.EVEN),
    )
    parts = urlsplit(gateway.url)

    async def send() -> list[Sent]:
        client = Client(parts.hostname or "", parts.port or 80)
        try:
            return await client.run(demand.plan(rate, seconds, seed=1))
        finally:
            client.close()

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(asyncio.run, send())
        time.sleep(1.0)
        during()
        return sending.result()


class Ended(NamedTuple):
    """How one request of a closed loop ended."""

    at: float
    """Seconds since the loops began."""
    error: str
    """Empty when it was answered."""
    worker: str
    attempts: int


def hammer(
    gateway: Any, seconds: float, during: Callable[[], None], *, connections: int = 64, models: Sequence[str] = (MODEL,)
) -> list[Ended]:
    """Closed loops: each connection sends its next chat completion when the last is answered. A third of the time into
    it, call `during`. The models take turns by connection."""
    parts, began = urlsplit(gateway.url), time.monotonic()

    async def loop(number: int) -> list[Ended]:
        model = models[number % len(models)]
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}).encode()
        request = Message("/v1/chat/completions", body, (("x-route-explain", "1"),)).encode(parts.netloc)
        connection, ended = None, []
        while time.monotonic() < began + seconds:
            if connection is None or not connection.usable:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(lambda lost: None), parts.hostname, parts.port
                )
            async with asyncio.timeout(30):
                reply = await connection.send(request)
            error = reply.error or ("" if reply.status == 200 else f"{reply.status} {bytes(reply.body)[:300]!r}")
            worker, attempts = reply.headers.get("x-route-node", ""), int(reply.headers.get("x-route-attempts", 0))
            ended.append(Ended(time.monotonic() - began, error, worker, attempts))
        if connection is not None:
            connection.abort()
        return ended

    async def all_loops() -> list[Ended]:
        return [one for each in await asyncio.gather(*map(loop, range(connections))) for one in each]

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(asyncio.run, all_loops())
        time.sleep(seconds / 3)
        during()
        return sending.result()


def failures(sent: list[Sent]) -> list[str]:
    return [f"{one.number}: {one.error}" for one in sent if not one.ok]


def worker_of(headers: dict[str, str]) -> str:
    return headers["x-route-node"]


def until(condition: Callable[[], Any], seconds: float = 5.0, pause: float = 0.02) -> Any:
    """Ask another process again and again until the answer is true: it has no event to wait on."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not so within {seconds} s: {condition}")
        time.sleep(pause)
    return answer
