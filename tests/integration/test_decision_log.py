"""The decision log of a real gateway process: what it holds, that it makes room, and that a full disk harms nobody."""

import json
import os
import subprocess
import urllib.error
from pathlib import Path

import pytest

from loadtests.processes import isochrone
from policies.decision import Decided, Opened, Surveyed, decode
from tests.integration.stage import Stage, chat, until

FULL_DISK = "/dev/full"


def lines(path):
    return [decode(raw) for raw in path.read_bytes().splitlines()]


@pytest.fixture
def logged(tmp_path):
    """A gateway that logs every decision, one quick and one slow worker, and the path of the log."""
    with Stage() as made:
        made.emulate("quick", base_ms=5, price_hour=100)
        made.emulate("slow", base_ms=400, price_hour=1)
        path = tmp_path / "decisions.jsonl"
        log = {"path": str(path), "sample": 1.0, "max_bytes": 65536, "keep": 2}
        gateway = made.start_gateway("europe-west4", decision_log=log, auth={"pepper": "salt"})
        made.await_workers(gateway, 2)
        yield made, gateway, path


def test_what_was_decided_is_on_disk_after_the_end(logged):
    made, gateway, path = logged
    for headers in ({"x_deadline_ms": 200}, {"x_deadline_ms": 5000, "x_slo_ttft_ms": 4000}, {}):
        chat(gateway, headers=headers, user="alice@example.com", stream=not headers)
    with pytest.raises(urllib.error.HTTPError):
        chat(gateway, headers={"x_min_quality": 1.5})
    made.stop_gateway(gateway)

    raw = path.read_bytes()
    assert b"alice" not in raw
    assert b'"hi"' not in raw
    opened, _, *rest = lines(path)
    assert (opened.region, opened.sample) == ("europe-west4", 1.0)
    decided = [line for line in rest if isinstance(line, Decided)]
    last = [line for line in rest if isinstance(line, Surveyed)][-1]
    assert {(g.region, g.count, g.price.usd_per_hour) for g in last.groups} == {
        ("europe-west4", 1, 100.0),
        ("europe-west4", 1, 1.0),
    }
    assert 0 < last.round_trips["europe-west4"][0] < 0.1

    tight, loose, patient, refused = decided
    assert [one.attempts[0].node.split("/")[0] for one in (tight, loose, patient)] == ["quick", "slow", "slow"]
    assert (tight.total, tight.in_deadline, tight.attempts[0].promise) == (0.2, True, "feasible")
    assert (loose.first_token, loose.total) == (4.0, 5.0)
    assert (patient.total, patient.stream, patient.attempts[0].output_tokens) == (None, True, 4)
    for one in (tight, loose, patient):
        (tried,) = one.attempts
        assert tried.predicted.network > 0
        assert None not in (tried.actual.queue, tried.actual.prefill, tried.actual.total)
        assert one.took >= tried.actual.total >= tried.actual.prefill
        assert tried.cost > 0
    assert loose.attempts[0].cost == pytest.approx(loose.attempts[0].expected_cost, rel=0.2)
    assert (refused.refused, refused.status, refused.attempts) == ("quality_floor", 400, ())


def test_a_log_makes_room_and_every_file_stands_alone(logged):
    made, gateway, path = logged
    files = [path, Path(f"{path}.1"), Path(f"{path}.2")]

    def filled():
        for _ in range(100):
            chat(gateway, headers={"x_deadline_ms": 200})
        return files[2].exists()

    until(filled, seconds=60)
    made.stop_gateway(gateway)
    assert sorted(os.listdir(path.parent)) == sorted(file.name for file in files)
    for file in files:
        first, second, *rest = lines(file)
        assert isinstance(first, Opened)
        assert sum(group.count for group in second.groups) == 2
        assert rest
        assert file.stat().st_size <= 65536

    command = isochrone("simulate", "--replay", str(path), "--policy", "lowest_cost", "--json")
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)
    logged, again = told["logged"], told["policies"]["simulated again"]
    assert told["workers"] == 2
    assert told["logged_policy"] == "cheapest_in_deadline"
    assert logged["requests"] == again["requests"] > 100
    assert logged["attainment"] > 0.95
    assert again["attainment"] == pytest.approx(logged["attainment"], abs=0.05)
    assert again["cost"] == pytest.approx(logged["cost"], rel=0.25)
    # The cheapest per hour misses 200 ms every time.
    assert told["policies"]["lowest_cost"]["attainment"] <= again["attainment"]


def test_a_full_disk_costs_a_count_never_a_request(tmp_path):
    with Stage() as made:
        made.emulate("w1")
        log = {"path": FULL_DISK, "sample": 1.0}
        gateway = made.start_gateway("europe-west4", decision_log=log)
        made.await_workers(gateway, 1)
        for _ in range(5):
            chat(gateway)
        until(lambda: made.metrics(gateway)["isochrone_decision_log_dropped_total"] >= 5)
        chat(gateway)
        said = [json.loads(line) for line in gateway.child.log.read_text().splitlines() if "not logged" in line]
        assert len(said) == 1, "once, not with every flush"
        assert "No space left" in said[0]["error"]
