"""Money moves what can wait and leaves what cannot."""

import msgspec
import pytest

from loadtests import scenario
from loadtests.scenario import NodePlan
from tests.integration.stage import MODEL, Stage, chat, until, worker_of

NEAR = NodePlan(id="near", region="europe-west4", models=(MODEL,), variants=("fp32",), usd_per_hour=1.0)
FAR = NodePlan(id="far", region="us-central1", models=(MODEL,), variants=("fp32",), usd_per_hour=1.5)
TIGHT, LOOSE = {"x_deadline_ms": 80}, {"x_deadline_ms": 2000}


@pytest.fixture
def market():
    world = msgspec.structs.replace(scenario.load(), nodes=(NEAR, FAR))
    with Stage(world) as made:
        workers = made.emulate_nodes()
        gateway = made.start_gateway("europe-west4")
        made.await_nodes(gateway)
        yield gateway, workers


def test_halving_a_far_price_moves_loose_traffic_there_and_tight_not(market):
    gateway, workers = market
    for headers in (TIGHT, LOOSE):
        assert {worker_of(chat(gateway, headers=headers)) for _ in range(5)} == {"near"}
    workers["far"].control(usd_per_hour=FAR.usd_per_hour / 2)
    until(lambda: worker_of(chat(gateway, headers=LOOSE)) == "far")
    assert {worker_of(chat(gateway, headers=LOOSE)) for _ in range(5)} == {"far"}
    assert {worker_of(chat(gateway, headers=TIGHT)) for _ in range(5)} == {"near"}
