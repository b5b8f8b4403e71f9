"""The emulated worker as a process, with a real Redis."""

import json
import sys
import time
import urllib.request

import pytest
import redis

from loadtests.processes import Child, end_all
from policies import records


@pytest.fixture
def children():
    children: list[Child] = []
    yield children
    end_all(children)


@pytest.fixture
def registry(children, tmp_path):
    from loadtests.embedded import start_redis

    child, url = start_redis(tmp_path)
    children.append(child)
    with redis.Redis.from_url(url) as client:
        yield client, url


def until(condition, seconds=5.0):
    """Wait for what another process writes: there is no event to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def start(children, tmp_path, *arguments):
    command = [
        sys.executable,
        "-m",
        "loadtests.live.worker",
        "--id",
        "w1",
        "--region",
        "r1",
        "--model",
        "m",
        *arguments,
    ]
    children.append(Child("w1", command, tmp_path))
    return children[-1], children[-1].wait_ready(15).split()[1]


def test_it_registers_beats_and_lets_its_lease_run_out(children, tmp_path, registry):
    client, url = registry
    child, address = start(children, tmp_path, "--redis", url, "--price-hour", "2.5")
    until(lambda: client.get(records.load_key("r1", "w1")))
    worker = records.open_worker(client.get(records.node_key("r1", "w1")), None)
    assert isinstance(worker, records.Worker)
    assert f"http://{worker.address}" == address
    assert worker.price == records.MarginalPrice(2.5)
    assert client.smembers(records.ids_key("r1")) == {b"w1"}
    first = records.decode_load(client.get(records.load_key("r1", "w1")))
    until(lambda: records.decode_load(client.get(records.load_key("r1", "w1"))).seq > first.seq)
    child.kill()
    assert 0 < client.pttl(records.load_key("r1", "w1")) <= 3000


def test_it_writes_its_record_again_when_its_price_changes(children, tmp_path, registry):
    client, url = registry
    _, address = start(children, tmp_path, "--redis", url)
    until(lambda: client.get(records.node_key("r1", "w1")))
    body = json.dumps({"usd_per_hour": 0.25}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{address}/control", body)).close()
    key = records.node_key("r1", "w1")
    until(lambda: records.open_worker(client.get(key), None).price == records.MarginalPrice(0.25))


def test_it_registers_again_after_a_flush(children, tmp_path, registry):
    client, url = registry
    start(children, tmp_path, "--redis", url)
    until(lambda: client.get(records.node_key("r1", "w1")))
    client.flushall()
    until(lambda: client.get(records.node_key("r1", "w1")) and client.smembers(records.ids_key("r1")))


def test_without_a_registry_it_just_serves(children, tmp_path):
    _, address = start(children, tmp_path)
    with urllib.request.urlopen(f"{address}/v1/models") as answer:
        assert json.load(answer)["data"][0]["id"] == "m"
