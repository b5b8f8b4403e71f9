"""Gauges: read from the living objects at scrape time."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import Gateway
from gateway.config import GatewayConfig, load
from policies.records import seal_worker
from policies.request import DrainSet, RoundTrip
from tests.gateway.members import request, worker
from tests.gateway.test_telemetry import page


async def test_the_fleet_and_the_registries() -> None:
    gateway = Gateway(GatewayConfig(registries={"eu-west": "redis://127.0.0.1:1", "us-east": "redis://127.0.0.1:1"}))
    for worker_id, region in (("a", "eu-west"), ("b", "us-east")):
        gateway.roster.record(region, None, seal_worker(worker(worker_id, region)), 1.0)
    gateway.measured(RoundTrip("a", 0.01), 1.0)
    gateway.observe(DrainSet("b", True), 1.0)
    gateway.roster.compare("us-east", set(), 2.0, 2.0)
    found = page(gateway.telemetry)
    assert found["isochrone_workers{state=serving}"] == 1
    assert found["isochrone_workers{state=draining}"] == 1
    assert found["isochrone_workers{state=ejected}"] == 0
    assert found["isochrone_nodes"] == 2
    assert found["isochrone_workers_doubted"] == 1
    assert found["isochrone_region_rtt_seconds{region=eu-west}"] == 0.01
    assert "isochrone_region_rtt_seconds{region=us-east}" not in found
    assert found["isochrone_registry_live{region=us-east}"] == 0
    assert found["isochrone_registry_age_seconds{region=us-east}"] == float("inf")
    assert found["isochrone_config_generation"] == 1
    assert found["isochrone_draining"] == 0
    assert found["isochrone_panics_total"] == 0
    assert found["isochrone_promise_level{probability=0.95}"] == pytest.approx(0.05)
    assert found["isochrone_residual_spreads{of=total,quantile=0.95}"] == pytest.approx(1.64, abs=0.1)
    gateway.fleet.calibration.settled(0.95, "", missed=True)
    assert page(gateway.telemetry)["isochrone_promise_level{probability=0.95}"] < 0.05
    assert found["isochrone_promise_reopenings_total{probability=0.95}"] == 0
    assert found["isochrone_foretold_attempts_total{probability=0.95-0.98}"] == 0
    gateway.fleet.calibration.reliability.add(0.96, False)
    foretold = page(gateway.telemetry)
    assert foretold["isochrone_foretold_attempts_total{probability=0.95-0.98}"] == 1
    assert foretold["isochrone_foretold_kept_total{probability=0.95-0.98}"] == 0
    assert foretold["isochrone_foretold_probability_total{probability=0.95-0.98}"] == pytest.approx(0.96)
    assert foretold["isochrone_calibration_error"] == pytest.approx(0.96)
    assert foretold["isochrone_brier_score"] == pytest.approx(0.96**2)
    gateway.fleet.panics += 2
    assert page(gateway.telemetry)["isochrone_panics_total"] == 2
    gateway.plane.draining = True
    assert page(gateway.telemetry)["isochrone_draining"] == 1


async def test_what_is_counted_survives_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"geoip: {{path: {tmp_path / 'missing.mmdb'}}}\n")
    gateway = Gateway(load(path), path)
    gateway.plane.locator.unknown += 3
    gateway.plane.wheel.faults += 1
    before = page(gateway.telemetry)
    assert before["isochrone_geoip_failures_total"] == 1
    assert await gateway.reload.reload()
    after = page(gateway.telemetry)
    assert after["isochrone_geoip_failures_total"] == 2  # the file is still missing
    assert after["isochrone_geoip_unknown_total"] == 3
    assert after["isochrone_wheel_faults_total"] == 1


async def test_a_shadow_is_compared_on_the_page_and_outlives_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("routes: [{shadow: nearest, shadow_share: 1.0}]\nregistries: {eu-west: 'redis://127.0.0.1:1'}\n")
    gateway = Gateway(load(path), path)
    now = gateway.plane.clock()
    for worker_id, price, rtt in (("near", 4.0, 0.002), ("far", 1.0, 0.09)):
        gateway.roster.record("eu-west", None, seal_worker(worker(worker_id, price=price)), now)
        for _ in range(20):
            gateway.measured(RoundTrip(worker_id, rtt), now)
    for _ in range(3):
        gateway.plane.router.route(request(arrived=now, deadline=now + 9.0), now)
    labels = "policy=cheapest_in_deadline,route=*,shadow=nearest"
    found = page(gateway.telemetry)
    assert found[f"isochrone_shadow_requests_total{{{labels}}}"] == 3
    assert found[f"isochrone_shadow_agreements_total{{{labels}}}"] == 0
    assert found[f"isochrone_shadow_both_total{{{labels}}}"] == 3
    assert found[f"isochrone_shadow_regret_dollars{{{labels}}}"] < 0
    for side in ("policy", "shadow"):
        assert found[f"isochrone_shadow_promised_total{{{labels},side={side}}}"] == 3
        assert found[f"isochrone_shadow_refused_total{{{labels},side={side}}}"] == 0
        assert found[f"isochrone_shadow_probability_total{{{labels},side={side}}}"] == pytest.approx(3, rel=0.05)
    assert found[f"isochrone_shadow_cost_dollars_total{{{labels},side=shadow}}"] > 0
    path.write_text(path.read_text() + "decision_headers: always\n")
    assert await gateway.reload.reload()
    assert page(gateway.telemetry)[f"isochrone_shadow_requests_total{{{labels}}}"] == 3
    assert not any("shadow" in name for name in page(Gateway(GatewayConfig()).telemetry))


async def test_scaling_signals_and_the_fleets_hours() -> None:
    gateway = Gateway(GatewayConfig(region="home", registries={"eu-west": "redis://127.0.0.1:1"}))
    now = gateway.plane.clock()
    for worker_id, price in (("a", 1.0), ("b", 3.0)):
        gateway.roster.record("eu-west", None, seal_worker(worker(worker_id, price=price)), now)
    gateway.plane.router.tick(now)
    gateway.plane.router.route(request(arrived=now, deadline=now + 1e-4), now)
    found = page(gateway.telemetry)
    assert found["isochrone_fleet_dollars_per_hour{region=eu-west}"] == 4.0
    supply = "{model=digits,region=eu-west}"
    assert found[f"isochrone_signal_nodes{supply}"] == 2
    assert found[f"isochrone_signal_busy_nodes{supply}"] == 0
    assert found[f"isochrone_shadow_price_ratio{supply}"] == 1.0
    assert found[f"isochrone_runway_seconds{supply}"] == float("inf")
    assert found[f"isochrone_idle_dear_share{supply}"] == 0.75
    demand = "{cause=distance,model=digits,region=home}"
    assert found[f"isochrone_infeasible_requests_total{demand}"] == 1
    assert found[f"isochrone_infeasible_accelerator_seconds_total{demand}"] == pytest.approx(0.01)
