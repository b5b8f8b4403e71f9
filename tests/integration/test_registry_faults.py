"""The registry frozen, flushed, killed and poisoned: clients notice nothing."""

import signal
import time

import pytest
import redis

from loadtests.embedded import known_workers
from policies import records
from tests.integration.stage import chat, failures, stage, under_load, until, worker_of

REGION = "europe-west4"
LONGER_THAN_A_LEASE = records.LEASE_SECONDS + 1


@pytest.fixture(scope="module")
def scene():
    """Three emulated workers in one region and a gateway that knows them."""
    with stage(workers=3, policy="cheapest_in_deadline") as made:
        yield made


@pytest.fixture
def client(scene):
    with redis.Redis.from_url(scene[0].redis) as client:
        yield client


def test_frozen_registry_costs_no_request(scene):
    made, gateway, _ = scene

    def freeze():
        made.registry.send(signal.SIGSTOP)
        time.sleep(LONGER_THAN_A_LEASE)

    try:
        sent = under_load(gateway, seconds=LONGER_THAN_A_LEASE + 1.5, during=freeze)
    finally:
        made.registry.send(signal.SIGCONT)
    assert failures(sent) == []
    until(lambda: len(known_workers(gateway)) == 3)


def test_flushed_registry_costs_no_request_and_fills_again(scene, client):
    _, gateway, _ = scene
    sent = under_load(gateway, seconds=3, during=client.flushall)
    assert failures(sent) == []
    until(lambda: client.scard(records.ids_key(REGION)) == 3)
    assert len(known_workers(gateway)) == 3


def test_poisoned_records_are_dropped_and_counted(scene, client):
    made, gateway, _ = scene
    counter = 'isochrone_registry_records_rejected_total{kind="parse"}'
    before = made.metrics(gateway).get(counter, 0)
    for number, poison in enumerate((b"", b"\x00\xff", b'{"record": 5}', b'{"record": "{\\"id\\": \\"x\\"}"}')):
        client.set(records.node_key(REGION, f"poison{number}"), poison)
        client.set(records.load_key(REGION, f"poison{number}"), b"NaN", px=3000)
        client.sadd(records.ids_key(REGION), f"poison{number}")
        client.publish(records.changes_channel(REGION, f"poison{number}"), records.NODE + poison)
    until(lambda: made.metrics(gateway).get(counter, 0) > before)
    assert known_workers(gateway) == {"w1", "w2", "w3"}
    assert chat(gateway)["x-route-node"]


def test_a_new_worker_takes_traffic_within_a_second(scene):
    made, gateway, _ = scene
    new = made.emulate("new", REGION, price_hour=0.01)
    registered = time.monotonic()
    until(lambda: worker_of(chat(gateway)) == "new", seconds=3, pause=0.005)
    took = time.monotonic() - registered
    new.child.end()
    assert took < 1.0


def test_killed_registry_costs_no_request():
    with stage(workers=2) as (made, gateway, _):

        def kill():
            made.registry.kill()
            time.sleep(LONGER_THAN_A_LEASE)

        sent = under_load(gateway, seconds=LONGER_THAN_A_LEASE + 1.5, during=kill)
        assert failures(sent) == []
        assert len(known_workers(gateway)) == 2
