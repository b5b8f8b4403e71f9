import random

import orjson
import pytest

from gateway.openai.models import card, listing
from policies.fleet import Fleet
from policies.reason import Reason
from policies.records import Curve, Endpoint, MarginalPrice, Worker
from policies.request import Shed, WorkerSeen


def worker(name: str, region: str, *endpoints: Endpoint, seq: int = 1_700_000_000_000) -> Worker:
    price = MarginalPrice(1.0)
    return Worker(id=name, boot="b", seq=seq, address="10.1.2.3:9000", region=region, price=price, endpoints=endpoints)


def endpoint(model: str, variant: str, quality: float, agreement: float | None = None) -> Endpoint:
    curve = Curve(0.01)
    return Endpoint(model=model, variant=variant, quality=quality, curve=curve, agreement=agreement, task="embedding")


@pytest.fixture
def fleet() -> Fleet:
    fleet = Fleet(random.Random(1))
    both = (endpoint("minilm", "fp32", 1.0), endpoint("minilm", "int8", 0.99, 0.97))
    fleet.apply(WorkerSeen(worker("w1", "eu-west", *both)), 0.0)
    later = worker("w2", "us-east", endpoint("minilm", "int8", 0.98, 0.96), seq=1_800_000_000_000)
    fleet.apply(WorkerSeen(later), 0.0)
    fleet.apply(WorkerSeen(worker("w3", "us-east", endpoint("digits", "fp32", 1.0))), 0.0)
    return fleet


def test_an_empty_fleet_lists_nothing():
    assert orjson.loads(listing(Fleet(random.Random(1)))) == {"object": "list", "data": []}


def test_models_with_their_variants_best_first(fleet):
    data = orjson.loads(listing(fleet))["data"]
    assert [model["id"] for model in data] == ["digits", "minilm"]
    minilm = data[1]
    assert (minilm["object"], minilm["owned_by"], minilm["created"]) == ("model", "isochrone", 1_700_000_000)
    assert minilm["task"] == "embedding"
    full, small = minilm["variants"]
    assert full == {"variant": "fp32", "quality": 1.0, "agreement": None, "regions": ["eu-west"], "nodes": 1}
    assert small == {
        "variant": "int8",
        "quality": 0.98,
        "agreement": 0.96,
        "regions": ["eu-west", "us-east"],
        "nodes": 2,
    }


def test_no_address_leaves(fleet):
    assert b"10.1.2.3" not in listing(fleet)
    assert b"9000" not in listing(fleet)


def test_one_model(fleet):
    assert orjson.loads(card("digits", fleet))["id"] == "digits"
    missing = card("nope", fleet)
    assert isinstance(missing, Shed)
    assert missing.reason is Reason.MODEL_NOT_FOUND
