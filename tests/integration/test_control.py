"""Explanations, configuration taken or refused at run time, and places swapped under a running gateway."""

import msgspec
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from ruamel.yaml import YAML

from loadtests import scenario
from loadtests.embedded import fetch
from loadtests.scenario import WorkerPlan
from tests.integration.stage import MODEL, Stage, chat, stage, until, worker_of

CHAT = {"model": "tinychat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
CLIENT = "203.0.113.9"


def explain(gateway, deadline_ms):
    headers = {} if deadline_ms is None else {"x-deadline-ms": str(deadline_ms)}
    described = {"path": "/v1/chat/completions", "headers": headers, "body": CHAT}
    return fetch(f"{gateway.control}/admin/explain", described)


def test_explanation_has_every_candidate_with_its_parts(gateway):
    told = explain(gateway, 90)
    assert {c["worker"] for c in told["candidates"]} == {"eu-a", "eu-b", "us-a", "us-b", "asia-a", "asia-b"}
    costs = [c["cost_usd"] for c in told["candidates"]]
    assert costs == sorted(costs)
    for candidate in told["candidates"]:
        parts = sum(candidate[part] for part in ("network_s", "wait_s", "prefill_s", "decode_s"))
        assert parts == pytest.approx(candidate["mean_s"])
        assert candidate["quantile_s"] >= candidate["mean_s"]
    by_region = {c["region"]: c for c in told["candidates"]}
    assert by_region["asia-northeast1"]["network_s"] > by_region["us-central1"]["network_s"] > 0.09


def test_explanation_says_what_the_alternatives_would_mean(gateway):
    told = explain(gateway, 90)
    assert told["decision"] == "feasible"
    assert told["chosen"].startswith("eu-")
    assert told["without_deadline"]["node"].startswith("asia-")
    assert told["without_deadline"]["extra_cost_usd"] < 0 < told["without_deadline"]["extra_s"]
    assert explain(gateway, None)["chosen"].startswith("asia-")


def test_explaining_reserves_nothing_and_sends_nothing(gateway):
    before = fetch(f"{gateway.control}/admin/nodes")["nodes"]
    for _ in range(20):
        explain(gateway, 90)
    after = fetch(f"{gateway.control}/admin/nodes")["nodes"]
    assert [row["in_flight"] for row in after] == [row["in_flight"] for row in before]


def test_a_decided_request_is_explained_by_its_id_predicted_against_actual(gateway):
    headers = chat(gateway, model="tinychat", headers={"x_deadline_ms": 300, "x_request_id": "told-1"})
    told = fetch(f"{gateway.control}/admin/explain/told-1")
    (attempt,) = told["attempts"]
    assert attempt["node"].startswith(f"{headers['x-route-node']}/tinychat:")
    assert (told["status"], attempt["outcome"], told["deadline_ms"]) == (200, "ok", 300)
    for part in ("network_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms", "cost_usd"):
        assert attempt["predicted"][part] is not None
        assert attempt["actual"][part] is not None
    assert attempt["actual"]["accelerator_ms"] > 0


@pytest.fixture(scope="module")
def two_prices():
    """A dear and a cheap worker, and a gateway whose file a test may rewrite."""
    with Stage() as made:
        made.emulate("dear", price_hour=9)
        made.emulate("cheap", price_hour=1)
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway, 2)
        path = made.directory / f"{gateway.child.name}.yaml"
        yield made, gateway, path


def rewrite(path, **fields):
    config = YAML(typ="safe").load(path.read_text()) | fields
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        YAML(typ="safe").dump(config, file)
    fresh.replace(path)


def test_a_changed_configuration_is_taken_whole_or_refused_whole(two_prices):
    made, gateway, path = two_prices
    good = path.read_text()
    assert worker_of(chat(gateway)) == "cheap"

    rewrite(path, routes=[{"match": {"model": "*"}, "policy": "round_robin"}])
    until(lambda: {worker_of(chat(gateway)) for _ in range(4)} == {"dear", "cheap"}, seconds=10)
    applied = fetch(f"{gateway.control}/healthz")["config"]
    assert applied["number"] == 2

    rewrite(path, routes=[{"match": {"model": "*"}, "policy": "no_such_policy"}], decision_headers="never")
    refused = until(lambda: fetch(f"{gateway.control}/healthz")["config"]["refused"], seconds=10)
    assert "$.routes[0].policy" in refused
    assert made.metrics(gateway)['isochrone_config_reloads_total{result="refused"}'] == 1
    assert {worker_of(chat(gateway)) for _ in range(4)} == {"dear", "cheap"}  # old policy, old headers

    path.write_text(good)
    until(lambda: {worker_of(chat(gateway)) for _ in range(4)} == {"cheap"}, seconds=10)


def write_places(path, country, latitude, longitude):
    """A GeoLite2-City-like database that knows one network."""
    writer = MMDBWriter(ip_version=4, database_type="GeoLite2-City", description="test")
    writer.insert_network(
        IPSet(["203.0.113.0/24"]),
        {"country": {"iso_code": country}, "location": {"latitude": latitude, "longitude": longitude}},
    )
    fresh = path.with_suffix(".new")
    writer.to_db_file(str(fresh))
    fresh.replace(path)


def test_swapped_places_change_residency_and_steering(tmp_path):
    database = tmp_path / "places.mmdb"
    write_places(database, "DE", 52.5, 13.4)
    here = WorkerPlan(id="here", region="europe-west4", models=(MODEL,), variants=("fp32",), usd_per_hour=9)
    there = msgspec.structs.replace(here, id="there", region="us-central1", usd_per_hour=1)
    world = msgspec.structs.replace(scenario.load(), workers=(here, there))
    by_country = {"DE": ["europe-*"], "US": ["us-*"], "unknown": ["*"]}
    sites = {
        "europe-west4": {"url": "http://eu.example", "latitude": 53.4, "longitude": 6.8},
        "us-central1": {"url": "http://us.example", "latitude": 41.3, "longitude": -95.9},
    }
    with Stage(world) as made:
        for worker in world.workers:
            made.emulate(worker.id, worker.region, price_hour=worker.usd_per_hour)
        gateway = made.start_gateway(
            "europe-west4",
            geoip={"path": str(database)},
            trusted_peers=["127.0.0.0/8"],
            regions=sites,
            routes=[{"match": {"model": "*"}, "regions": {"by_country": by_country}}],
        )
        made.await_workers(gateway)
        at = {"x_forwarded_for": CLIENT}

        german = chat(gateway, headers=at)
        assert worker_of(german) == "here"
        assert german["x-gateway-nearest"] == "http://eu.example"
        assert fetch(f"{gateway.control}/admin/steer?ip={CLIENT}")["country"] == "DE"

        write_places(database, "US", 40.7, -74.0)
        american = until(lambda: worker_of(reply := chat(gateway, headers=at)) == "there" and reply, seconds=10)
        assert american["x-gateway-nearest"] == "http://us.example"
        steered = fetch(f"{gateway.control}/admin/steer?ip={CLIENT}")
        assert [near["region"] for near in steered["gateways"]] == ["us-central1", "europe-west4"]

        database.write_bytes(b"not a database")
        until(lambda: "x-gateway-nearest" not in chat(gateway, headers=at), seconds=10)
        assert fetch(f"{gateway.control}/admin/steer?ip={CLIENT}")["country"] is None


def test_a_drained_worker_gets_nothing_until_it_is_back():
    with stage(workers=2) as (_, gateway, _):
        fetch(f"{gateway.control}/admin/drain", {"worker": "w1"})
        assert {worker_of(chat(gateway)) for _ in range(6)} == {"w2"}
        fetch(f"{gateway.control}/admin/drain", {"worker": "w1", "on": False})
        until(lambda: worker_of(chat(gateway)) == "w1")
