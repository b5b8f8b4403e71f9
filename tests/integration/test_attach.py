"""An existing engine, registered unchanged beside us: what its metrics page says changes where requests go."""

import pytest

from loadtests.embedded import known_workers, nodes
from loadtests.processes import isochrone
from tests.integration.stage import MODEL, Stage, chat, hammer, until, worker_of

SOON = {"x_deadline_ms": 1500}


@pytest.fixture(scope="module")
def engines():
    """A cheap and a dear vLLM-like engine that know nothing of us, each with a sidecar."""
    with Stage() as made:
        fakes = {}
        for name, price in (("cheap", "0.5"), ("dear", "2.0")):
            fakes[name] = made.emulate(f"engine-{name}", registered=False)
            command = isochrone(
                "worker", "attach", fakes[name].url, "--engine", "vllm", "--id", name, "--redis", made.redis,
                "--region", "europe-west4", "--price-hour", price,
                "--model", MODEL, "--max-batch", "1", "--decode-tps", "100",
            )  # fmt: skip
            made.spawn(f"sidecar-{name}", command).wait_ready(30)
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway, 2)
        yield gateway, fakes


def test_a_rising_queue_moves_requests_and_a_falling_one_brings_them_back(engines):
    gateway, fakes = engines
    until(lambda: worker_of(chat(gateway, headers=SOON)) == "cheap")
    fakes["cheap"].control(queue=20)
    until(lambda: worker_of(chat(gateway, headers=SOON)) == "dear")
    fakes["cheap"].control(queue=0)
    until(lambda: worker_of(chat(gateway, headers=SOON)) == "cheap")


def test_the_engine_is_called_at_its_own_address_with_its_own_body(engines):
    gateway, fakes = engines
    before = len(fakes["cheap"].log())
    chat(gateway, headers={**SOON, "x_request_id": "attached-1"})
    assert [entry["request_id"] for entry in fakes["cheap"].log()[before:]] == ["attached-1"]


def test_a_dead_engine_loses_its_lease_though_its_sidecar_lives(engines):
    gateway, fakes = engines
    fakes["dear"].child.kill()
    until(lambda: known_workers(gateway) == {"cheap"}, seconds=10)
    assert worker_of(chat(gateway)) == "cheap"


def test_a_proxy_counts_what_an_engine_does_not_tell():
    with Stage() as made:
        fake = made.emulate("engine", registered=False)
        command = isochrone(
            "worker", "attach", fake.url, "--engine", "openai", "--proxy", "--id", "proxied", "--redis", made.redis,
            "--region", "europe-west4", "--model", MODEL, "--max-batch", "1",
        )  # fmt: skip
        made.spawn("sidecar", command).wait_ready(30)
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway, 1)
        (row,) = nodes(gateway)
        assert (row["waiting"], row["running"]) == (0, 0)

        def queued():
            (row,) = nodes(gateway)
            return row["waiting"] >= 5 and row["running"] == 1

        ended = hammer(gateway, 3.0, lambda: until(queued), connections=16)
        assert {one.error for one in ended} == {""}
        until(lambda: nodes(gateway)[0]["waiting"] == 0)
