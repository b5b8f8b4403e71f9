"""A small stage for faults: a Redis, gateways and emulated workers without the WAN, all real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from loadtests import scenario
from loadtests.arrivals import Arrivals, Process
from loadtests.embedded import Embedded, fetch
from loadtests.live.client import Client
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
        """Start an emulated worker; options are its command line's, with underscores."""
        command = [sys.executable, "-m", "loadtests.live.worker", "--id", worker_id, "--region", region]
        command += ["--model", str(options.pop("model", MODEL))]
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
