"""Figures that are read when somebody scrapes: the fleet, the registries, the measured regions, the configuration.

Unlike `telemetry.py`'s counters they cost nothing in between. Labels are bounded: states and regions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import islice

from gateway.control.slot import Generation
from gateway.edge.plane import Plane
from gateway.registry import Registry
from gateway.telemetry import MAX_REGIONS, Reading, Telemetry
from policies.estimate import CLASSES
from policies.health import State
from policies.reliability import Bin
from policies.shadow import Shadow, Tally

Figures = dict[tuple[str, ...], float]
PAIR = ("route", "policy", "shadow")
SIDE = (*PAIR, "side")
"""Labels of the comparison of two policies, and of one side of it."""


def show(telemetry: Telemetry, plane: Plane, registry: Registry, generation: Callable[[], Generation]) -> None:
    """Put every one of them on the page."""

    def workers() -> Figures:
        counted = Counter(state.health.state for state in plane.router.fleet.workers.values())
        return {(state.value,): counted[state] for state in State}

    def rtts() -> Figures:
        regions = plane.router.fleet.regions().items()
        return {(region,): trips.mean for region, trips in islice(regions, MAX_REGIONS) if trips.samples}

    def ages() -> Figures:
        return {(s.source,): math.inf if s.age is None else s.age for s in registry.standings()}

    def live() -> Figures:
        return {(s.source,): float(s.live) for s in registry.standings()}

    def levels() -> Figures:
        return {(f"{p:.2f}",): plane.router.fleet.calibration.promise(p).eps for p in CLASSES}

    def reopenings() -> Figures:
        return {(f"{p:.2f}",): plane.router.fleet.calibration.promise(p).reopened for p in CLASSES}

    def foretold(figure: Callable[[Bin], float]) -> Callable[[], Figures]:
        return lambda: {(b.label,): figure(b) for b in plane.router.fleet.calibration.reliability.bins()}

    def shadows(figure: Callable[[Shadow], float]) -> Callable[[], Figures]:
        return lambda: {(*key, s.name): figure(s) for key, s in plane.routes.shadows().items()}

    def sides(figure: Callable[[Tally], float]) -> Callable[[], Figures]:
        def read() -> Figures:
            found = plane.routes.shadows().items()
            return {(*key, s.name, who): figure(t) for key, s in found for who, t in s.tallies.items()}

        return read

    def residuals() -> Figures:
        calibration = plane.router.fleet.calibration
        measured = (("first_token", calibration.first), ("total", calibration.total))
        return {(what, f"{p:.2f}"): residual.quantile(p) for what, residual in measured for p in CLASSES}

    def flag(value: Callable[[], float]) -> Callable[[], Figures]:
        return lambda: {(): value()}

    for gauge in (
        Reading("workers", "Workers by state.", ("state",), workers),
        Reading("nodes", "Model variants that may be routed to.", (), flag(lambda: len(plane.router.fleet.nodes()))),
        Reading("workers_doubted", "Workers kept though their registry lost them.", (),
                flag(lambda: len(registry.roster.doubted))),
        Reading("region_rtt_seconds", "Smoothed round trip to a region's workers.", ("region",), rtts),
        Reading("registry_age_seconds", "Since the last complete read of a registry.", ("region",), ages),
        Reading("registry_live", "Whether a registry is heard.", ("region",), live),
        Reading("in_flight", "Attempts sent and not settled.", (), flag(lambda: plane.router.open)),
        Reading("draining", "Whether this gateway is shutting down.", (), flag(lambda: plane.draining)),
        Reading("traces", "Decisions that can be explained by request id.", (), flag(lambda: len(plane.ring))),
        Reading("geoip_failures", "Times the GeoIP database could not be used.", (),
                flag(lambda: plane.locator.failures), rises=True),
        Reading("geoip_unknown", "Requests whose place was not found.", (), flag(lambda: plane.locator.unknown),
                rises=True),
        Reading("wheel_faults", "Timeouts whose action failed.", (), flag(lambda: plane.wheel.faults), rises=True),
        Reading("panics", "Attempts sent to a node in bad health, because too few good ones were left.", (),
                flag(lambda: plane.router.fleet.panics), rises=True),
        Reading("promise_level", "Misses allowed now to keep a promised probability; closed below -0.05.",
                ("probability",), levels),
        Reading("promise_reopenings", "Times a promise broken too often was given again.", ("probability",), reopenings,
                rises=True),
        Reading("residual_spreads", "Quantiles of recent errors in predicted spreads; 1.64 at 0.95 if normal.",
                ("of", "quantile"), residuals),
        Reading("foretold_attempts", "Attempts with a deadline, by the predicted probability that it would be kept.",
                ("probability",), foretold(lambda b: b.count), rises=True),
        Reading("foretold_kept", "Those of them whose deadline was kept.", ("probability",),
                foretold(lambda b: b.kept * b.count), rises=True),
        Reading("foretold_probability", "Sum of their predicted probabilities.", ("probability",),
                foretold(lambda b: b.predicted * b.count), rises=True),
        Reading("calibration_error", "Expected calibration error of the predicted probabilities since the start.", (),
                flag(lambda: plane.router.fleet.calibration.reliability.error)),
        Reading("brier_score", "Mean squared error of the predicted probabilities since the start.", (),
                flag(lambda: plane.router.fleet.calibration.reliability.brier)),
        Reading("shadow_requests", "Requests put to a route's policy and to its shadow.", PAIR,
                shadows(lambda s: s.asked), rises=True),
        Reading("shadow_agreements", "Those that both would send to the same node, or neither to any.", PAIR,
                shadows(lambda s: s.agreed), rises=True),
        Reading("shadow_both", "Those that both would send somewhere.", PAIR, shadows(lambda s: s.both), rises=True),
        Reading("shadow_regret_dollars", "By how much the policy's predictions are dearer, where both promise.", PAIR,
                shadows(lambda s: s.regret)),
        Reading("shadow_promised", "Requests that one of the two predicts in time.", SIDE,
                sides(lambda t: t.promised), rises=True),
        Reading("shadow_refused", "Requests that one of the two would hold or refuse.", SIDE,
                sides(lambda t: t.refused), rises=True),
        Reading("shadow_cost_dollars", "Predicted by one of the two, of what both would send.", SIDE,
                sides(lambda t: t.cost), rises=True),
        Reading("shadow_probability", "Sum of the probabilities to be in time, likewise.", SIDE,
                sides(lambda t: t.chance), rises=True),
        Reading("config_generation", "Number of the configuration in force.", (), flag(lambda: generation().number)),
        Reading("config_stale", "Whether the newest configuration file was refused.", (),
                flag(lambda: bool(generation().refused))),
    ):  # fmt: skip
        telemetry.watch(gauge)
