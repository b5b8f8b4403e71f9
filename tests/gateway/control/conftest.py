"""A gateway in this process with a small fleet, and its control plane over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.app import Gateway
from gateway.auth import key_hash
from gateway.config import AdminKey, AuthConfig, GatewayConfig, Site
from gateway.control.app import build
from policies.records import seal_worker
from policies.request import LoadSeen, RoundTrip
from tests.gateway.members import endpoint, load, worker

SECRET = "s" * 32
MODEL = "digits"


@pytest.fixture
async def gateway() -> Gateway:
    """Two workers: a near dear one and a far cheap one; both idle."""
    config = GatewayConfig(
        id="gw1",
        region="eu-west",
        redis="redis://127.0.0.1:1",
        regions={
            "eu-west": Site(url="http://eu.example", latitude=53.3, longitude=-6.2),
            "us-east": Site(url="http://us.example", latitude=38.9, longitude=-77.4),
        },
    )
    made = Gateway(config)
    now = made.plane.clock()
    for worker_id, region, price, rtt in (("near", "eu-west", 4.0, 0.002), ("far", "us-east", 1.0, 0.090)):
        record = worker(worker_id, region, price=price, endpoints=(endpoint(base=0.01),))
        made.roster.record(region, None, seal_worker(record), now)
        for _ in range(20):
            made.measured(RoundTrip(worker_id, rtt), now)
        made.measured(LoadSeen(load(worker_id), 0.0), now)
    return made


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(build(gateway.slot, lambda: gateway.plane.keys, set()))) as client:
        yield client


def admin_config() -> GatewayConfig:
    return GatewayConfig(auth=AuthConfig(admins=(AdminKey(id="ops", hash=key_hash(SECRET)),)))
