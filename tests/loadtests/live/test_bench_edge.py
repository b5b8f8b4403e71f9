"""The bench's own parts: its fleet is a fleet, its figures are what they are said to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtests.live import bench_edge
from loadtests.live.bench_edge import BODY, NODES, Round
from policies import records
from policies.records import Worker


def test_the_request_is_about_a_kibibyte() -> None:
    assert abs(len(BODY) - 1024) < 32


def test_the_fleet_is_32_nodes_that_a_registry_takes() -> None:
    fleet = bench_edge.workers([1, 2, 3, 4])
    assert len({worker.id for worker in fleet}) == NODES
    assert len({worker.address for worker in fleet}) == 4
    for worker in fleet:
        assert isinstance(records.open_worker(records.seal_worker(worker), None), Worker)


def test_the_summary_pairs_rounds_and_takes_medians() -> None:
    found = {
        "isochrone": [Round(40.0, 1.0), Round(60.0, 2.0), Round(50.0, 3.0)],
        "nginx": [Round(20.0, 1.0), Round(20.0, 2.0), Round(20.0, 3.0)],
    }
    result = bench_edge.summary(found)
    assert (result["isochrone_us"], result["nginx_us"], result["ratio_nginx"]) == (50.0, 20.0, 2.5)
    assert result["ratio_nginx_min_max"] == [2.0, 3.0]


def test_cpu_time_grows_with_work_done() -> None:
    before = bench_edge.cpu_seconds(os.getpid())
    total = 0
    while bench_edge.cpu_seconds(os.getpid()) < before + 0.02:
        total += sum(range(1000))
    assert total > 0


def test_without_nginx_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_edge, "nginx_path", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench_edge"])
    assert bench_edge.main() == 2
    assert "nginx" in capsys.readouterr().err


def test_the_result_goes_to_the_build_folder() -> None:
    assert Path("build/bench/edge.json") == bench_edge.RESULT
