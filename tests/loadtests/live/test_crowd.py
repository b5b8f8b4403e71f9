"""Several emulated workers in one process, with a real Redis."""

import json
import sys
import time
import urllib.request

import msgspec
import pytest
import redis

from loadtests.embedded import start_redis
from loadtests.live.crowd import Member
from loadtests.live.emulated import OUTPUT_HEADER
from loadtests.processes import Child, end_all, free_ports
from loadtests.simulator.world import Profile
from policies import records

PROFILE = Profile(accelerator="x", prefill_tokens_per_s=100_000, slots=4)


@pytest.fixture
def crowd(tmp_path):
    """Two workers, and a client of their registry."""
    children = []
    try:
        child, url = start_redis(tmp_path)
        children.append(child)
        ports = free_ports(2)
        members = [
            Member(
                records.Worker(
                    id=f"w{number}", boot="b", seq=0, address=f"127.0.0.1:{port}", region="r",
                    price=records.MarginalPrice(1.0),
                    endpoints=(records.Endpoint(model="m", variant="v", quality=1, curve=records.Curve(0.1)),),
                ),
                PROFILE, port, 10.0,
            )
            for number, port in enumerate(ports)
        ]  # fmt: skip
        path = tmp_path / "crowd.json"
        path.write_bytes(msgspec.json.encode(members))
        command = [sys.executable, "-m", "loadtests.live.crowd", str(path), "--redis", url]
        children.append(Child("crowd", command, tmp_path))
        assert children[-1].wait_ready(30) == "ready 2 workers"
        with redis.Redis.from_url(url) as client:
            yield children[-1], ports, client
    finally:
        end_all(children)


def written(registry, key, seconds=5.0):
    """What another process writes sooner or later: there is no event to wait on."""
    end = time.monotonic() + seconds
    while (raw := registry.get(key)) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return raw


def test_each_registers_and_answers_for_itself_and_all_end_together(crowd):
    child, ports, registry = crowd
    for number, port in enumerate(ports):
        body = json.dumps({"model": "m", "prompt": "hi"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body,
            {"content-type": "application/json", OUTPUT_HEADER: str(number + 2)},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read())["usage"]["completion_tokens"] == number + 2
        sealed = written(registry, records.node_key("r", f"w{number}"))
        assert records.open_worker(sealed, None).address == f"127.0.0.1:{port}"
        assert written(registry, records.load_key("r", f"w{number}"))
    child.end()
    assert child.fate == "ended with exit status 0"
