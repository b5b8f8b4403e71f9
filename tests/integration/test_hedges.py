"""Hedges between real processes: one worker stalls, the other answers in time, and the first is called off."""

import pytest

from loadtests.embedded import fetch
from tests.integration.stage import MODEL, Stage, chat, until, worker_of

HEDGED = {"hedge": {"share": 1.0}}
FIRST_TOKEN_MS = 1500
"""A first token takes about 30 ms; 1.2 s of silence from a worker tell that it is stuck."""


@pytest.fixture(scope="module")
def pair():
    """A cheap worker `w1`, another one in the next region, and a gateway that hedges."""
    with Stage() as made:
        workers = {
            name: made.emulate(name, region, price_hour=price, base_ms=20)
            for name, region, price in (("w1", "europe-west4", 1.0), ("w2", "us-east4", 1.5))
        }
        routes = [{"match": {"model": MODEL}, "policy": HEDGED}]
        gateway = made.start_gateway("europe-west4", routes=routes)
        made.await_workers(gateway, 2)
        yield made, gateway, workers


def hedges(made, gateway):
    found = made.metrics(gateway)
    return {outcome: found[f'isochrone_hedges_total{{outcome="{outcome}"}}'] for outcome in ("won", "lost", "failed")}


def entry(worker, request_id):
    return next((one for one in worker.log() if one["request_id"] == request_id), None)


def test_a_stalled_worker_is_outrun_and_called_off(pair):
    made, gateway, workers = pair
    workers["w1"].control(fault="stall")
    try:
        answer = chat(gateway, stream=True, headers={"x-slo-ttft-ms": FIRST_TOKEN_MS, "x-request-id": "tied"})
        assert worker_of(answer) == "w2"
        loser = until(lambda: (one := entry(workers["w1"], "tied")) and one["ended"] and one)
        assert loser["end"] == "cancelled"
        until(lambda: fetch(f"{workers['w1'].url}/healthz")["running"] == 0)
        assert loser["hedge"] == entry(workers["w2"], "tied")["hedge"] == "tied"
        assert hedges(made, gateway) == {"won": 1.0, "lost": 0.0, "failed": 0.0}
        told = fetch(f"{gateway.control}/admin/explain/tied")
        assert [attempt["outcome"] for attempt in told["attempts"]] == ["outrun", "ok"]
    finally:
        workers["w1"].control(fault="none")


def test_who_answers_in_time_has_no_company(pair):
    made, gateway, workers = pair
    before = hedges(made, gateway)
    answer = chat(gateway, stream=True, headers={"x-slo-ttft-ms": FIRST_TOKEN_MS, "x-request-id": "alone"})
    assert worker_of(answer) == "w1"
    assert entry(workers["w2"], "alone") is None
    assert hedges(made, gateway) == before
