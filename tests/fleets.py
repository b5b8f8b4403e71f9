"""Small fleets for the pure tests: workers, loads and requests with only what a test is about spelt out."""

import random
from typing import Any

from policies.config import PolicyConfig
from policies.fleet import Fleet
from policies.node import Node
from policies.records import Curve, Endpoint, Load, MarginalPrice, Worker
from policies.request import LoadSeen, Request, RoundTrip, WorkerSeen
from policies.router import Router

MODEL = "chat"


def endpoint(**fields: Any) -> Endpoint:
    defaults: dict[str, Any] = {"model": MODEL, "variant": "fp32", "quality": 1.0, "curve": Curve(0.01)}
    return Endpoint(**(defaults | fields))


def worker(
    name: str = "w", *, usd_per_hour: float = 1.0, endpoints: tuple[Endpoint, ...] = (), **fields: Any
) -> Worker:
    defaults: dict[str, Any] = {
        "id": name,
        "boot": "b1",
        "seq": 1,
        "address": "127.0.0.1:9000",
        "region": "home",
        "price": MarginalPrice(usd_per_hour),
        "endpoints": endpoints or (endpoint(),),
    }
    return Worker(**(defaults | fields))


def load(name: str = "w", seq: int = 1, **fields: Any) -> Load:
    defaults: dict[str, Any] = {"boot": "b1", "waiting": 0, "running": 0, "backlog": 0.0}
    return Load(worker=name, seq=seq, **(defaults | fields))


def request(**fields: Any) -> Request:
    defaults: dict[str, Any] = {"id": "r", "model": MODEL, "policy": "house", "arrived": 0.0}
    return Request(**(defaults | fields))


def router(*workers: Worker, rtt: dict[str, float] | None = None, seed: int = 1, **policies: PolicyConfig) -> Router:
    """A router over the given workers at time 0: measured round trips (default 1 ms) and idle loads."""
    rng = random.Random(seed)
    built = {name: config.build() for name, config in ({"house": PolicyConfig()} | policies).items()}
    result = Router(Fleet(rng), built, rng)
    for record in workers:
        result.observe(WorkerSeen(record), 0.0)
        for _ in range(20):  # enough for the jitter to settle
            result.observe(RoundTrip(record.id, (rtt or {}).get(record.id, 0.001)), 0.0)
        result.observe(LoadSeen(load(record.id, boot=record.boot), 0.0), 0.0)
    return result


CHAT = endpoint(curve=Curve(base=0.02, prefill=0.001, decode=0.01), max_batch=4)


def only_node(record: Worker | None = None, **rtt: float) -> tuple[Router, Node]:
    """A router with one node, 100 ms away and serving text unless said otherwise."""
    r = router(record or worker("w", endpoints=(CHAT,)), rtt=rtt or {"w": 0.1})
    return r, r.fleet.nodes()[0]
