"""Engines that nobody here wrote, as real processes behind `worker attach`: `make test-engines` installs them.

Each is registered, answers through a gateway, is seen to queue, is killed, and is gone from the gateway's fleet.
"""

import contextlib
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.embedded import known_workers, nodes
from loadtests.processes import Child, free_ports, isochrone
from tests.integration.stage import Stage, chat, until, worker_of

HERE = Path(__file__).parent
INSTALLED = Path(os.environ.get("ENGINES", "unset")).absolute()
START_SECONDS = 90.0
"""Torch and Ray take 10 to 20 s to import on a busy core."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif("ENGINES" not in os.environ, reason="make test-engines installs them"),
]


class Attached(NamedTuple):
    """An engine, the model that clients ask for, and the gateway that knows of it."""

    engine: Child
    model: str
    gateway: object


def program(engine, name="python"):
    """A program of an engine's own environment."""
    return str(INSTALLED / engine / "bin" / name)


@contextlib.contextmanager
def attached(command, url, *options, ready):
    """Start an engine and a gateway, and attach the engine."""
    with Stage() as made:
        engine = made.spawn("engine", command, OFFLINE, ready=ready)
        engine.wait_ready(START_SECONDS)
        place = ["--id", "e", "--region", "europe-west4", "--redis", made.redis, "--model", "m=" + options[0]]
        made.spawn("sidecar", isochrone("worker", "attach", url, *options[1:], *place)).wait_ready(30)
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway, 1)
        yield Attached(engine, "m", gateway)


def proven(at, tokens, seconds=30.0):
    """Ask, queue, kill."""
    assert worker_of(chat(at.gateway, model=at.model)) == "e"

    def shown():
        (row,) = nodes(at.gateway)
        return (row["waiting"] or 0) >= 2

    seen = threading.Event()

    def ask():
        served = set()
        while not seen.is_set():
            served.add(worker_of(chat(at.gateway, model=at.model, max_tokens=tokens)))
        return served

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask) for _ in range(6)]
        try:
            until(shown, seconds=seconds)
        finally:
            seen.set()
        assert [each.result() for each in asked] == [{"e"}] * 6
    at.engine.kill()
    until(lambda: known_workers(at.gateway) == set(), seconds=10)


def test_transformers_serve(tmp_path):
    """It tells no load: the proxy counts it, one request at the engine at a time."""
    folder = str(tmp_path / "tiny")
    made = [program("transformers"), str(HERE / "tiny_llama.py"), folder]
    subprocess.run(made, check=True, env=os.environ | OFFLINE, capture_output=True)
    (port,) = free_ports(1)
    command = [program("transformers", "transformers"), "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    options = [folder, "--engine", "transformers", "--proxy", "--max-batch", "1"]
    with attached(command, f"http://127.0.0.1:{port}", *options, ready="Application startup complete") as at:
        timings = chat(at.gateway, model=at.model, max_tokens=20)["server-timing"]
        assert "prefill;dur=" in timings, "the proxy's, for the engine has none"
        proven(at, tokens=30)


def test_ray_serve():
    """Its own metrics tell the queue, some seconds late."""
    port, metrics = free_ports(2)
    command = [program("ray"), str(HERE / "ray_app.py"), str(port), str(metrics)]
    page = f"http://127.0.0.1:{metrics}/metrics"
    options = ["m", "--engine", "ray", "--metrics-url", page, "--max-batch", "1"]
    with attached(command, f"http://127.0.0.1:{port}", *options, ready="^ready ") as at:
        proven(at, tokens=4)
