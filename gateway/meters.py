"""Figures that are read when somebody scrapes: the fleet, the registries, the promises, the shadows, the signals.

Unlike `telemetry.py`'s counters they cost nothing in between. Labels are bounded: states, regions, what is configured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from gateway.control.slot import Generation
from gateway.edge.plane import Plane
from gateway.registry import Registry
from gateway.telemetry import MAX_REGIONS, Reading, Telemetry
from policies.cost import hourly
from policies.estimate import CLASSES
from policies.health import State
from policies.reliability import Bin
from policies.shadow import Shadow, Tally
from policies.signals import Signal, Unmet

Figures = dict[tuple[str, ...], float]
Read = Callable[[], Figures]
MAX_SIGNALS = 1000
"""Series per signal: a fleet of more models times regions shows the first."""
SUPPLY, DEMAND = ("model", "region"), ("model", "region", "cause")
PAIR = ("route", "policy", "shadow")
SIDE = (*PAIR, "side")
"""Labels of the comparison of two policies, and of one side of it."""


def show(
    telemetry: Telemetry, plane: Plane, registry: Registry, region: str, generation: Callable[[], Generation]
) -> None:
    """Put every one of them on the page. `region`: where this gateway stands, and demand comes in."""
    for family in (
        _process(plane, generation),
        _fleet(plane),
        _registries(registry),
        _promises(plane),
        _shadows(plane),
        _scaling(plane, region),
    ):
        for reading in family:
            telemetry.watch(reading)


def _flag(value: Callable[[], float]) -> Read:
    return lambda: {(): value()}


def _process(plane: Plane, generation: Callable[[], Generation]) -> Iterator[Reading]:
    yield Reading("in_flight", "Attempts sent and not settled.", (), _flag(lambda: plane.router.open))
    waiting = _flag(lambda: len(plane.router.waiting))
    yield Reading("requests_held", "Requests held now for want of room.", (), waiting)
    yield Reading("draining", "Whether this gateway is shutting down.", (), _flag(lambda: plane.draining))
    yield Reading("traces", "Decisions that can be explained by request id.", (), _flag(lambda: len(plane.ring)))
    failures, unknown = _flag(lambda: plane.locator.failures), _flag(lambda: plane.locator.unknown)
    yield Reading("geoip_failures", "Times the GeoIP database could not be used.", (), failures, rises=True)
    yield Reading("geoip_unknown", "Requests whose place was not found.", (), unknown, rises=True)
    faults = _flag(lambda: plane.wheel.faults)
    yield Reading("wheel_faults", "Timeouts whose action failed.", (), faults, rises=True)
    number, stale = _flag(lambda: generation().number), _flag(lambda: bool(generation().refused))
    yield Reading("config_generation", "Number of the configuration in force.", (), number)
    yield Reading("config_stale", "Whether the newest configuration file was refused.", (), stale)


def _fleet(plane: Plane) -> Iterator[Reading]:
    def workers() -> Figures:
        counted = Counter(state.health.state for state in plane.router.fleet.workers.values())
        return {(state.value,): counted[state] for state in State}

    def rtts() -> Figures:
        regions = plane.router.fleet.regions().items()
        return {(region,): trips.mean for region, trips in islice(regions, MAX_REGIONS) if trips.samples}

    def hours() -> Figures:
        found: dict[str, float] = {}
        for state in plane.router.fleet.workers.values():
            found[state.record.region] = found.get(state.record.region, 0.0) + hourly(state.record)
        return {(region,): usd for region, usd in islice(found.items(), MAX_REGIONS)}

    def panics() -> Figures:
        return {(): plane.router.fleet.panics}

    nodes = _flag(lambda: len(plane.router.fleet.nodes()))
    yield Reading("workers", "Workers by state.", ("state",), workers)
    yield Reading("nodes", "Model variants that may be routed to.", (), nodes)
    yield Reading("region_rtt_seconds", "Smoothed round trip to a region's workers.", ("region",), rtts)
    text = "What the hours of a region's workers cost, used or not."
    yield Reading("fleet_dollars_per_hour", text, ("region",), hours)
    text = "Attempts sent to a node in bad health, because too few good ones were left."
    yield Reading("panics", text, (), panics, rises=True)


def _registries(registry: Registry) -> Iterator[Reading]:
    def ages() -> Figures:
        return {(s.source,): math.inf if s.age is None else s.age for s in registry.standings()}

    def live() -> Figures:
        return {(s.source,): float(s.live) for s in registry.standings()}

    doubted = _flag(lambda: len(registry.roster.doubted))
    yield Reading("workers_doubted", "Workers kept though their registry lost them.", (), doubted)
    yield Reading("registry_age_seconds", "Since the last complete read of a registry.", ("region",), ages)
    yield Reading("registry_live", "Whether a registry is heard.", ("region",), live)


def _promises(plane: Plane) -> Iterator[Reading]:
    def levels() -> Figures:
        return {(f"{p:.2f}",): plane.router.fleet.calibration.promise(p).eps for p in CLASSES}

    def reopenings() -> Figures:
        return {(f"{p:.2f}",): plane.router.fleet.calibration.promise(p).reopened for p in CLASSES}

    def residuals() -> Figures:
        calibration = plane.router.fleet.calibration
        measured = (("first_token", calibration.first), ("total", calibration.total))
        return {(what, f"{p:.2f}"): residual.quantile(p) for what, residual in measured for p in CLASSES}

    def bins(figure: Callable[[Bin], float]) -> Read:
        return lambda: {(one.label,): figure(one) for one in plane.router.fleet.calibration.reliability.bins()}

    text = "Misses allowed now to keep a promised probability; closed below -0.05."
    yield Reading("promise_level", text, ("probability",), levels)
    text = "Times a promise broken too often was given again."
    yield Reading("promise_reopenings", text, ("probability",), reopenings, rises=True)
    text = "Quantiles of recent errors in predicted spreads; 1.64 at 0.95 if normal."
    yield Reading("residual_spreads", text, ("of", "quantile"), residuals)
    for name, text, figure in (
        ("attempts", "Attempts with a deadline, by the probability they had.", lambda one: one.count),
        ("kept", "Those of them whose deadline was kept.", lambda one: one.kept * one.count),
        ("probability", "Sum of their predicted probabilities.", lambda one: one.predicted * one.count),
    ):
        yield Reading(f"foretold_{name}", text, ("probability",), bins(figure), rises=True)
    error = _flag(lambda: plane.router.fleet.calibration.reliability.error)
    brier = _flag(lambda: plane.router.fleet.calibration.reliability.brier)
    yield Reading("calibration_error", "Expected calibration error of these probabilities since the start.", (), error)
    yield Reading("brier_score", "Mean squared error of these probabilities since the start.", (), brier)


def _shadows(plane: Plane) -> Iterator[Reading]:
    def pairs(figure: Callable[[Shadow], float]) -> Read:
        return lambda: {(*key, one.name): figure(one) for key, one in plane.routes.shadows().items()}

    def sides(figure: Callable[[Tally], float]) -> Read:
        def read() -> Figures:
            found = plane.routes.shadows().items()
            return {(*key, one.name, side): figure(tally) for key, one in found for side, tally in one.tallies.items()}

        return read

    text = "Requests put to a route's policy and to its shadow."
    yield Reading("shadow_requests", text, PAIR, pairs(lambda one: one.asked), rises=True)
    text = "Those that both would send to the same node, or neither to any."
    yield Reading("shadow_agreements", text, PAIR, pairs(lambda one: one.agreed), rises=True)
    text = "Those that both would send somewhere."
    yield Reading("shadow_both", text, PAIR, pairs(lambda one: one.both), rises=True)
    text = "By how much the policy's predictions are dearer, where both promise."
    yield Reading("shadow_regret_dollars", text, PAIR, pairs(lambda one: one.regret))
    text = "Requests that one of the two predicts in time."
    yield Reading("shadow_promised", text, SIDE, sides(lambda tally: tally.promised), rises=True)
    text = "Requests that one of the two would hold or refuse."
    yield Reading("shadow_refused", text, SIDE, sides(lambda tally: tally.refused), rises=True)
    text = "Predicted by one of the two, of what both would send."
    yield Reading("shadow_cost_dollars", text, SIDE, sides(lambda tally: tally.cost), rises=True)
    text = "Sum of the probabilities to be in time, likewise."
    yield Reading("shadow_probability", text, SIDE, sides(lambda tally: tally.chance), rises=True)


def _scaling(plane: Plane, region: str) -> Iterator[Reading]:
    def supply(figure: Callable[[Signal], float]) -> Read:
        def read() -> Figures:
            rows = islice(plane.router.fleet.signals.rows(), MAX_SIGNALS)
            return {(row.model, row.region): figure(row) for row in rows}

        return read

    def demand(figure: Callable[[Unmet], float]) -> Read:
        def read() -> Figures:
            found = islice(plane.router.fleet.signals.unmet.items(), MAX_SIGNALS)
            return {(model, region, cause): figure(one) for (model, cause), one in found}

        return read

    text = "Requests with a deadline that nobody could meet: for a queue, or for distance."
    yield Reading("infeasible_requests", text, DEMAND, demand(lambda one: one.requests), rises=True)
    text = "Accelerator time they would have taken."
    yield Reading("infeasible_accelerator_seconds", text, DEMAND, demand(lambda one: one.seconds), rises=True)
    yield Reading("signal_nodes", "Nodes in service.", SUPPLY, supply(lambda row: row.nodes))
    text = "Nodes' worth of work at hand; more than there are is a queue."
    yield Reading("signal_busy_nodes", text, SUPPLY, supply(lambda row: row.busy))
    text = "Price of the dearest node at work, its queue counted in, over the cheapest."
    yield Reading("shadow_price_ratio", text, SUPPLY, supply(lambda row: row.shadow_price))
    text = "Until the work at hand outgrows the nodes, if it goes on growing."
    yield Reading("runway_seconds", text, SUPPLY, supply(lambda row: row.runway_s))
    text = "Part of the hourly bill for nodes idle and dearer than any at work."
    yield Reading("idle_dear_share", text, SUPPLY, supply(lambda row: row.idle_dear_share))
