"""Money moves what can wait and leaves what cannot."""

import msgspec
import pytest
import redis

from loadtests import scenario
from loadtests.scenario import WorkerPlan
from policies import records
from tests.integration.stage import MODEL, Stage, chat, until, worker_of

NEAR = WorkerPlan(id="near", region="europe-west4", models=(MODEL,), variants=("fp32",), usd_per_hour=1.0)
FAR = WorkerPlan(id="far", region="us-central1", models=(MODEL,), variants=("fp32",), usd_per_hour=1.5)
TIGHT, LOOSE = {"x_deadline_ms": 80}, {"x_deadline_ms": 2000}


@pytest.fixture
def market():
    world = msgspec.structs.replace(scenario.load(), workers=(NEAR, FAR))
    with Stage(world) as made:
        workers = made.emulate_workers()
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway)
        yield gateway, workers


def test_halving_a_far_price_moves_loose_traffic_there_and_tight_not(market):
    gateway, workers = market
    for headers in (TIGHT, LOOSE):
        assert {worker_of(chat(gateway, headers=headers)) for _ in range(5)} == {"near"}
    workers["far"].control(usd_per_hour=FAR.usd_per_hour / 2)
    until(lambda: worker_of(chat(gateway, headers=LOOSE)) == "far")
    assert {worker_of(chat(gateway, headers=LOOSE)) for _ in range(5)} == {"far"}
    assert {worker_of(chat(gateway, headers=TIGHT)) for _ in range(5)} == {"near"}


def rewrite_price(client, worker_id, region, usd_per_hour):
    """Write a worker's record anew, as the worker itself would at another price; returns the price before."""
    key = records.node_key(region, worker_id)
    record = records.open_worker(client.get(key), None)
    changed = msgspec.structs.replace(record, seq=record.seq + 1, price=records.MarginalPrice(usd_per_hour))
    sealed = records.seal_worker(changed)
    client.set(key, sealed)
    client.publish(records.changes_channel(region, worker_id), records.NODE + sealed)
    return record.price.usd_per_hour


def test_halving_a_far_price_in_the_demo_moves_loose_traffic_there_and_tight_not(fleet, gateway):
    """us-b at half its price is cheaper than asia-b, where loose requests went before."""

    def ask(deadline, **fields):
        return worker_of(chat(gateway, model="tinychat", max_tokens=8, headers={"x_deadline_ms": deadline}, **fields))

    for worker_id in ("us-b", "asia-b"):  # how fast they really are is learned before their prices are compared
        for _ in range(8):
            ask(1000, provider={"only": [worker_id]})

    plan = next(worker for worker in fleet.scenario.workers if worker.id == "us-b")
    assert ask(1000).startswith("asia-")
    assert ask(90).startswith("eu-")
    with redis.Redis.from_url(fleet.redis) as client:
        before = rewrite_price(client, plan.id, plan.region, plan.usd_per_hour / 2)
        try:
            until(lambda: ask(1000) == "us-b")
            assert ask(90).startswith("eu-")
        finally:
            rewrite_price(client, plan.id, plan.region, before)
        until(lambda: ask(1000).startswith("asia-"))
