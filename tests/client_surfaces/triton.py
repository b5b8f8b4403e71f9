"""Real processes that speak the Open Inference Protocol both ways: two workers of `digits` behind a gateway."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from loadtests import scenario
from loadtests.embedded import Embedded, Gateway
from loadtests.processes import Child, isochrone

REGION = "europe-west4"


class Served(NamedTuple):
    """Where one process speaks HTTP and gRPC: HOST:PORT."""

    child: Child
    http: str
    grpc: str


class Pair(NamedTuple):
    """A gateway that prefers the first worker, for its price."""

    gateway: Served
    control: str
    workers: dict[str, Served]


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    with Embedded(scenario.load()) as fleet:
        fleet.start_redis()
        workers = {name: worker(fleet, name, price) for name, price in (("w1", 1), ("w2", 9))}
        config = {
            "region": REGION, "redis": fleet.redis, "decision_headers": "always", "probes": {"interval_s": 0.1},
            "listen": {"port": 0, "grpc_port": 0}, "control": {"port": 0},
        }  # fmt: skip
        path = fleet.directory / "triton.yaml"
        path.write_text(json.dumps(config))
        child = fleet.spawn("gateway", isochrone("gateway", "--config", str(path)))
        _, url, _, control, _, grpc = child.wait_ready(60).split()
        fleet.await_workers(Gateway(child, REGION, url, control), len(workers))
        yield Pair(Served(child, url.removeprefix("http://"), grpc), control, workers)


def worker(fleet: Embedded, name: str, price: float) -> Served:
    assert fleet.redis is not None
    command = isochrone(
        "worker", "serve", "--model", "digits", "--id", name, "--region", REGION, "--price-hour", str(price),
        "--redis", fleet.redis, "--grpc-port", "0",
    )  # fmt: skip
    child = fleet.spawn(name, command)
    _, url, _, grpc = child.wait_ready(60).split()
    return Served(child, url.removeprefix("http://"), grpc)
