"""Records, requests and dispatches as tests of the gateway need them."""

from __future__ import annotations

import random

from policies.fleet import Fleet
from policies.node import Node
from policies.records import Curve, Endpoint, Load, MarginalPrice, Worker
from policies.request import Dispatch, Eta, Request, Status, WorkerSeen


def endpoint(model: str = "digits", variant: str = "fp32", quality: float = 1.0, base: float = 0.01) -> Endpoint:
    return Endpoint(model=model, variant=variant, quality=quality, curve=Curve(base))


def worker(
    worker_id: str = "w1",
    region: str = "eu-west",
    seq: int = 1,
    boot: str = "b1",
    address: str = "127.0.0.1:1",
    price: float = 1.0,
    engine: str = "isochrone",
    endpoints: tuple[Endpoint, ...] = (),
) -> Worker:
    return Worker(
        id=worker_id,
        boot=boot,
        seq=seq,
        address=address,
        region=region,
        price=MarginalPrice(price),
        engine=engine,
        endpoints=endpoints or (endpoint(),),
    )


def load(worker_id: str = "w1", seq: int = 1, boot: str = "b1", waiting: int = 0) -> Load:
    return Load(worker=worker_id, boot=boot, seq=seq, waiting=waiting)


def request(request_id: str = "r1", model: str = "digits", arrived: float = 100.0, **fields: object) -> Request:
    return Request(id=request_id, model=model, policy="cheapest_in_deadline", arrived=arrived, **fields)  # type: ignore[arg-type]


def node(region: str = "eu-west", worker_id: str = "w1") -> Node:
    fleet = Fleet(random.Random(1))
    fleet.apply(WorkerSeen(worker(worker_id, region)), 0.0)
    return fleet.nodes()[0]


def dispatch(
    asked: Request | None = None,
    at: Node | None = None,
    attempt: int = 1,
    status: Status = Status.FEASIBLE,
    eta: Eta | None = None,
    cost: float = 0.001,
) -> Dispatch:
    asked = asked or request()
    return Dispatch(
        request=asked,
        node=at or node(),
        at=asked.arrived,
        attempt=attempt,
        status=status,
        eta=eta or Eta(network=0.02, wait=0.01, prefill=0.03, decode=0.04, spread=0.005),
        cost=cost,
    )
