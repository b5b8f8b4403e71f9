"""The router trades on what manifests measured: real workers serve one across a WAN, a real gateway picks."""

import json
import shutil
import urllib.request

import msgspec
import pytest
import redis

from loadtests import scenario
from loadtests.embedded import START_SECONDS
from loadtests.processes import free_ports, isochrone
from loadtests.scenario import WorkerPlan
from policies import records
from tests.integration.stage import Stage
from workers.manifest import packaged

NEAR, FAR = "europe-west4", "us-central1"
PLANS = (
    WorkerPlan(id="near-int8", region=NEAR, models=("digits",), variants=("int8",), usd_per_hour=6.0),
    WorkerPlan(id="near-int4", region=NEAR, models=("digits",), variants=("int4",), usd_per_hour=0.1),
    WorkerPlan(id="far-fp32", region=FAR, models=("digits",), variants=("fp32",), usd_per_hour=0.5),
)
ROUTE = {"match": {"model": "digits"}, "policy": "cheapest_in_deadline"}
FLOOR = {"quality": {"min": 0.99}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """The bundled digits with a third variant, said to keep 97 % of the quality and to take 8 times int8."""
    path = packaged("digits")
    folder = tmp_path_factory.mktemp("digits")
    told = json.loads(path.read_text())
    int8 = told["variants"][1]
    slower = {name: 8 * seconds for name, seconds in int8["curve"].items()}
    worse = int8 | {"variant": "int4", "quality": 0.97, "curve": slower}
    told["variants"].append(worse)
    for variant in told["variants"]:
        shutil.copy(path.parent / variant["file"], folder)
    (folder / path.name).write_text(json.dumps(told))
    return folder / path.name


@pytest.fixture(scope="module")
def world(manifest):
    with Stage(msgspec.structs.replace(scenario.load(), workers=PLANS)) as made:
        ports = dict(zip((plan.id for plan in PLANS), free_ports(len(PLANS)), strict=True))
        listens = made.start_wan(ports)
        children = []
        for plan in PLANS:
            command = isochrone(
                "worker", "serve", "--manifest", str(manifest), "--variants", ",".join(plan.variants),
                "--id", plan.id, "--region", plan.region, "--price-hour", str(plan.usd_per_hour),
                "--port", str(ports[plan.id]), "--advertise", listens[plan.id], "--redis", made.redis,
            )  # fmt: skip
            children.append(made.spawn(plan.id, command))
        for child in children:
            child.wait_ready(START_SECONDS)
        yield made


def asked(gateway, deadline_ms, count=5):
    """Which workers answer, and with which variant."""
    pixels = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    seen = set()
    for _ in range(count):
        request = urllib.request.Request(
            f"{gateway.url}/v2/models/digits/infer",
            json.dumps({"inputs": [pixels]}).encode(),
            {"content-type": "application/json", "x-deadline-ms": str(deadline_ms)},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["outputs"][0]["shape"] == [1, 10]
            seen.add((answer.headers["x-route-node"], answer.headers["x-route-variant"]))
    return seen


def test_within_the_quality_floor_a_tight_deadline_buys_near_int8_and_a_loose_one_cheap_far_fp32(world):
    gateway = world.start_gateway(NEAR, routes=[ROUTE | FLOOR])
    world.await_workers(gateway)
    assert asked(gateway, 80) == {("near-int8", "int8")}
    assert asked(gateway, 2000) == {("far-fp32", "fp32")}


def test_without_a_floor_the_cheapest_and_nearest_serves_both(world):
    gateway = world.start_gateway(NEAR, routes=[ROUTE])
    world.await_workers(gateway)
    assert asked(gateway, 80) == {("near-int4", "int4")}
    assert asked(gateway, 2000) == {("near-int4", "int4")}


def test_workers_register_what_their_machine_takes_not_what_the_manifest_says(world):
    def registered(plan):
        worker = records.open_worker(client.get(records.node_key(plan.region, plan.id)), None)
        (endpoint,) = worker.endpoints
        return endpoint.curve

    with redis.Redis.from_url(world.redis) as client:
        int8, int4 = (registered(plan) for plan in PLANS[:2])
    assert int4.base == pytest.approx(int8.base, rel=0.75), "they are the same file"
    assert int4.seconds(items=32) == pytest.approx(int8.seconds(items=32), rel=0.75)
