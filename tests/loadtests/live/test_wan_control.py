import socket
import sys
import time
from statistics import median

import click
import pytest
from aiohttp.test_utils import TestClient, TestServer

from loadtests import scenario
from loadtests.embedded import fetch
from loadtests.live.wan import Wan
from loadtests.live.wan_control import control, parse_upstreams
from loadtests.processes import Child, end_all

DEMO = scenario.load()


@pytest.fixture
async def wan():
    wan = Wan(DEMO, {"us-a": ("127.0.0.1", 9)})
    await wan.start()
    yield wan
    await wan.stop()


@pytest.fixture
async def client(wan):
    async with TestClient(TestServer(control(wan))) as client:
        yield client


async def test_proxies_are_listed_in_toxiproxys_shape(client):
    listed = await (await client.get("/proxies")).json()
    assert listed["us-a"]["upstream"] == "127.0.0.1:9"
    assert listed["us-a"]["enabled"] is True
    assert listed["us-a"]["toxics"] == []
    assert listed["us-a"]["listen"].startswith("127.0.0.1:")


async def test_link_changes_and_reset(client, wan):
    way = wan.ways["europe-west4", "us-central1"]
    before = way.delay
    answer = await client.post("/legs/europe-west4/us-central1", json={"delay_ms": 5, "jitter_ms": 0, "down": True})
    assert await answer.json() == {"delay_ms": 5, "jitter_ms": 0, "down": True}
    assert (way.delay, way.down) == (0.005, True)
    assert (await (await client.get("/legs")).json())["us-central1/europe-west4"]["down"] is False
    assert (await client.post("/reset")).status == 204
    assert (way.delay, way.down) == (before, False)


async def test_toxics_come_and_go(client, wan):
    asked = {"type": "latency", "stream": "upstream", "attributes": {"latency": 40, "jitter": 2}}
    answer = await client.post("/proxies/us-a/toxics", json=asked)
    assert [toxic["name"] for toxic in (await answer.json())["toxics"]] == ["latency_upstream"]
    assert 0.038 <= wan.proxies["us-a"].added("upstream") <= 0.042
    assert wan.proxies["us-a"].added("downstream") == 0
    assert (await client.delete("/proxies/us-a/toxics/latency_upstream")).status == 204
    assert wan.proxies["us-a"].added("upstream") == 0


async def test_proxy_is_disabled_and_enabled(client, wan):
    assert (await (await client.post("/proxies/us-a", json={"enabled": False})).json())["enabled"] is False
    assert (await (await client.post("/proxies/us-a", json={"enabled": True})).json())["enabled"] is True


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/proxies/nobody", {"enabled": True}, 404),
        ("/legs/a/b", {}, 404),
        ("/legs/europe-west4/us-central1", {"delay_ms": -1}, 400),
        ("/proxies/us-a/toxics", {"type": "bandwidth", "attributes": {}}, 400),
    ],
)
async def test_what_it_does_not_know_is_refused(client, path, body, status):
    answer = await client.post(path, json=body)
    assert answer.status == status
    assert (await answer.json())["error"]


def test_upstreams_are_parsed():
    assert parse_upstreams(["a=127.0.0.1:80", "b=h:1"], {"a", "b"}) == {"a": ("127.0.0.1", 80), "b": ("h", 1)}


@pytest.mark.parametrize("pair", ["a", "a=", "a=host", "a=host:x", "c=host:1"])
def test_bad_upstreams_are_refused(pair):
    with pytest.raises(click.BadParameter):
        parse_upstreams([pair], {"a"})


def test_the_process_delays_as_the_table_says(tmp_path):
    """The real thing, on uvloop: the same tolerance as in test_wan.py, and for the same reasons."""
    with socket.create_server(("127.0.0.1", 0)) as worker:
        upstream = f"us-a=127.0.0.1:{worker.getsockname()[1]}"
        command = [sys.executable, "-m", "loadtests.live.wan_control", "--upstream", upstream]
        wan = Child("wan", command, tmp_path)
        try:
            host, _, port = fetch(f"{wan.wait_ready(20).split()[1]}/proxies")["us-a"]["listen"].partition(":")
            source = DEMO.regions["europe-west4"].source_address
            with socket.create_connection((host, int(port)), 5, (source, 0)) as client, worker.accept()[0] as far:
                taken = [_round_trip(client, far) for _ in range(9)]
        finally:
            end_all([wan])
    rtt, _ = DEMO.round_trip("europe-west4", "us-central1")
    assert rtt - 0.003 <= median(taken) <= rtt + 0.006


def _round_trip(client, far):
    sent = time.monotonic()
    client.sendall(b"ping")
    far.sendall(far.recv(4))
    assert client.recv(4) == b"ping"
    return time.monotonic() - sent
