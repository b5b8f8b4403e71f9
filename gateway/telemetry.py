"""What this process counts, and how it tells Prometheus.

The hot path adds to plain integers and to lists of bucket counts; label strings are made only when somebody scrapes.
Every predicted part of an answered request is counted beside what it really took, in the same buckets and for the
same requests, so that the calibration of the router can be read from the page. Names: `isochrone_*`, base units.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.reason import Reason
from policies.request import Dispatch, Eta, Outcome, Status, kept

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
"""Upper bounds in seconds, 1-2-5 steps: from one metro round trip to the longest patience of a request."""
COMPONENTS = ("network", "queue", "prefill", "decode", "total")
TOGETHER = 128
"""Answers whose parts are counted at once: 0.1 ms, and one each would cost four times as much."""
MAX_REGIONS = 64
"""Regions with series of their own; a fleet that names more shares one called `other`, so labels stay bounded."""
OTHER = "other"
CLIENT_GONE, OUTRUN = Reason.CLIENT_GONE, Reason.OUTRUN


class Counter(NamedTuple):
    """Where a counted name appears on the page: counters of one family differ by one label."""

    family: str
    help: str
    label: str = ""
    value: str = ""


def _family(prefix: str, family: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
    return {f"{prefix}.{value}": Counter(family, text, label, value) for value in values}


COUNTERS: dict[str, Counter] = {
    "registry.shrinks": Counter("registry_shrinks", "Times a registry lost most of its fleet at once and was doubted."),
    "registry.lost": Counter("registry_lost", "Times the connection to a registry was lost."),
    "registry.reads": Counter("registry_reads", "Complete reads of a registry."),
    "snapshot.saved": Counter("snapshot_writes", "Snapshots of the fleet written to disk.", "result", "saved"),
    "snapshot.failed": Counter("snapshot_writes", "Snapshots of the fleet written to disk.", "result", "failed"),
    "snapshot.corrupt": Counter("snapshot_corrupt", "Snapshot files found unreadable at start."),
    "ring.sink_failed": Counter("decision_log_dropped", "Decisions the log sink did not take."),
    "loop.faults": Counter("loop_faults", "Exceptions a background loop or callback survived."),
    **_family(
        "records", "registry_records_rejected", "Static records not used, once per distinct record.", "kind",
        ("size", "parse", "unsigned", "signature", "scope", "misplaced", "replayed", "full", "blank", "id"),
    ),
    **_family("loads", "registry_loads_rejected", "Load records not used.", "kind",
              ("size", "parse", "misplaced", "replayed")),
    **_family("probes", "probes", "Probes of workers by result; the first on a connection only warms it.", "result",
              ("timed", "warmed", "failed")),
    **_family("probing", "probes_sent", "Probes by kind; dropped ones were asked for beyond the budget.", "kind",
              ("periodic", "asked", "dropped")),
    **_family("reports", "load_reports", "Load reports on workers' answers; unused ones tell nothing of the worker.",
              "result", ("taken", "unused", "malformed")),
    **_family("hedges", "hedges", "Attempts beside a silent one; won: took its place; abandoned: ended with it.",
              "outcome", ("won", "lost", "failed", "abandoned")),
    **_family("config", "config_reloads", "Configurations read after the start.", "result", ("applied", "refused")),
    **_family("connections", "connections", "Client connections.", "event",
              ("accepted", "refused", "closed", "header_timeout", "body_timeout", "idle_timeout", "write_stall")),
    **_family("upstream", "upstream_connections", "Connections to workers.", "event",
              ("opened", "reused", "closed", "failed")),
    **_family("held", "held", "Requests held for want of room, by how that ended; left: the client did.", "ending",
              ("sent", "refused", "left")),
    "edge.cancelled": Counter("cancelled", "Requests whose client left before the answer was complete."),
    "edge.faults": Counter("edge_faults", "Exchanges ended by a fault of our own."),
    "edge.illegal": Counter("edge_illegal_transitions", "Events an exchange got in a state that does not allow them."),
}  # fmt: skip
"""Every name `count` takes. `edge.*`, `connections.*` and `upstream.*` are the data plane's."""


Seconds = tuple[float, float, float, float, float]
"""One for each of `COMPONENTS`."""


class Histogram:
    """Counts per bucket of `BOUNDS`, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def cumulated(self) -> Iterator[tuple[str, float]]:
        """(`le`, count at or below it) pairs, as the exposition format wants them."""
        below = 0
        for bound, count in zip((*BOUNDS, math.inf), self.counts, strict=True):
            below += count
            yield "+Inf" if bound == math.inf else str(bound), below


class Parts:
    """A histogram for each of `COMPONENTS`, filled together."""

    __slots__ = ("histograms",)

    def __init__(self) -> None:
        self.histograms = tuple(Histogram() for _ in COMPONENTS)

    def add(self, requests: list[Seconds]) -> None:
        """Count requests, at least one."""
        parts = np.array(requests).T
        places = np.searchsorted(BOUNDS, parts)
        for histogram, seconds, found in zip(self.histograms, parts, places, strict=True):
            histogram.sum += float(seconds.sum())
            for place, count in enumerate(np.bincount(found).tolist()):
                histogram.counts[place] += count

    def add_total(self, seconds: float) -> None:
        """Count one whose parts are not known."""
        self.histograms[-1].add(seconds)


class Traffic:
    """What went to one region."""

    __slots__ = ("accelerator", "client_errors", "cost", "dispatched", "expected_cost", "outcomes", "tokens")

    def __init__(self) -> None:
        self.dispatched: dict[Status, int] = dict.fromkeys(Status, 0)
        self.outcomes: dict[Reason | None, int] = {}
        """Without client errors, which are complete answers and no success."""
        self.client_errors = 0
        self.cost = 0.0
        self.expected_cost = 0.0
        self.accelerator = 0.0
        self.tokens = 0


class Reading(NamedTuple):
    """A figure read at scrape time: label values -> number."""

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Mapping[tuple[str, ...], float]]
    rises: bool = False
    """Whether it only grows while the process runs, which makes it a counter; else it is a gauge."""


class Telemetry(Collector):
    """The counters of one process; also the prometheus_client collector that shows them."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._refused: dict[Reason, int] = {}
        self._statuses: dict[int, int] = {}
        self._promises: dict[tuple[Status, float, bool], int] = {}
        self._regions: dict[str, Traffic] = {}
        self._retries = 0
        self._answered: list[tuple[Eta, Outcome, float]] = []
        """Predicted, actual and its total: not compared yet."""
        self._predicted = Parts()
        self._actual = Parts()
        self._latency = Histogram()
        self._lag = Histogram()
        self._held = Histogram()
        self._readings: list[Reading] = []
        self._page = CollectorRegistry(auto_describe=False)
        self._page.register(self)

    # The hot path.

    def refused(self, reason: Reason) -> None:
        """A request was refused, before or by routing."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def dispatched(self, dispatch: Dispatch) -> None:
        """An attempt was sent."""
        region = dispatch.node.region
        traffic = self._regions.get(region) or self._traffic(region)
        traffic.dispatched[dispatch.status] += 1
        if dispatch.attempt > 1 and not dispatch.hedge:
            self._retries += 1

    def settled(self, dispatch: Dispatch, outcome: Outcome, cost: float) -> None:
        """An attempt ended; `cost` is what it really cost, in US dollars."""
        region, reason = dispatch.node.region, outcome.reason
        accelerator, tokens = outcome.accelerator, outcome.output_tokens
        traffic = self._regions.get(region) or self._traffic(region)
        traffic.cost += cost
        traffic.expected_cost += dispatch.cost
        if accelerator is not None:
            traffic.accelerator += accelerator
        if tokens is not None:
            traffic.tokens += tokens
        if outcome.client_error:  # a fast no says nothing of the promise, nor of the prediction
            traffic.client_errors += 1
            return
        traffic.outcomes[reason] = traffic.outcomes.get(reason, 0) + 1
        request = dispatch.request
        if reason is not CLIENT_GONE and reason is not OUTRUN and not request.patient:
            promise = dispatch.status, request.probability, kept(dispatch, outcome)
            self._promises[promise] = self._promises.get(promise, 0) + 1
        if reason is None and outcome.total is not None:
            answered = self._answered
            answered.append((dispatch.eta, outcome, outcome.total))
            if len(answered) >= TOGETHER:
                self._compare()

    def finished(self, status: int, seconds: float) -> None:
        """A client's request was answered with HTTP `status`, `seconds` after its first byte."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._latency.add(seconds)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter of `COUNTERS`; any other name is a KeyError."""
        self._counts[name] += by

    def held(self, how: str, seconds: float) -> None:
        """A request is held no longer; `how` it ended is one of `COUNTERS`' `held`."""
        self._counts[f"held.{how}"] += 1
        self._held.add(seconds)

    def lagged(self, seconds: float) -> None:
        """The event loop called a timer this much too late."""
        self._lag.add(seconds)

    def _traffic(self, region: str) -> Traffic:
        """That of a region whose first this is, or one too many."""
        return self._regions.setdefault(region if len(self._regions) < MAX_REGIONS else OTHER, Traffic())

    def _compare(self) -> None:
        """Count prediction and reality of each part; a part the worker did not report is left out of both."""
        predicted: list[Seconds] = []
        actual: list[Seconds] = []
        for eta, outcome, total in self._answered:
            network, wait, first, rest = eta.network, eta.wait, eta.prefill, eta.decode
            prefill = outcome.prefill
            if prefill is None:
                self._predicted.add_total(network + wait + first + rest)
                self._actual.add_total(total)
                continue
            queue, decode = outcome.queue or 0.0, outcome.decode or 0.0
            travelled = total - queue - prefill - decode
            predicted.append((network, wait, first, rest, network + wait + first + rest))
            actual.append((travelled if travelled > 0.0 else 0.0, queue, prefill, decode, total))
        self._answered.clear()
        if predicted:
            self._predicted.add(predicted)
            self._actual.add(actual)

    # The page.

    def value(self, name: str) -> int:
        """What `count` has added up under `name`."""
        return self._counts[name]

    def watch(self, reading: Reading) -> None:
        """Show a figure on the page from now on."""
        self._readings.append(reading)

    def page(self) -> bytes:
        """The metrics page in the Prometheus text format 0.0.4."""
        return generate_latest(self._page)

    def collect(self) -> Iterator[Metric]:
        self._compare()
        yield from self._requests()
        yield from self._attempts()
        yield from self._counted()
        for component in (("predicted", self._predicted), ("actual", self._actual)):
            family = HistogramMetricFamily(
                f"isochrone_{component[0]}_seconds",
                f"{component[0].capitalize()} time of answered requests, part by part.",
                labels=["component"],
            )
            for label, histogram in zip(COMPONENTS, component[1].histograms, strict=True):
                family.add_metric([label], list(histogram.cumulated()), histogram.sum)
            yield family
        yield _plain("isochrone_request_seconds", "From first request byte to last answer byte.", self._latency)
        yield _plain("isochrone_held_seconds", "How long requests were held for want of room.", self._held)
        yield _plain("isochrone_loop_lag_seconds", "How late the event loop ran a timer.", self._lag)
        for reading in self._readings:
            kind = CounterMetricFamily if reading.rises else GaugeMetricFamily
            shown = kind(f"isochrone_{reading.name}", reading.help, labels=list(reading.labels))
            for labels, value in reading.read().items():
                shown.add_metric(list(labels), value)
            yield shown

    def _requests(self) -> Iterator[Metric]:
        statuses = CounterMetricFamily("isochrone_requests", "Requests answered, by HTTP status.", labels=["status"])
        for status, count in sorted(self._statuses.items()):
            statuses.add_metric([str(status)], count)
        yield statuses
        refused = CounterMetricFamily("isochrone_refused", "Requests refused, by reason.", labels=["reason"])
        for reason, count in self._refused.items():
            refused.add_metric([reason.label], count)
        yield refused
        promises = CounterMetricFamily(
            "isochrone_promises",
            "Attempts that had a deadline: under which promise they were sent, and whether it was kept.",
            labels=["status", "probability", "kept"],
        )
        for (promise, probability, held), count in self._promises.items():
            promises.add_metric([promise.value, f"{probability:.2f}", "yes" if held else "no"], count)
        yield promises

    def _attempts(self) -> Iterator[Metric]:
        dispatched = CounterMetricFamily("isochrone_dispatches", "Attempts sent.", labels=["region", "status"])
        outcomes = CounterMetricFamily("isochrone_attempts", "Attempts that ended.", labels=["region", "outcome"])
        cost = CounterMetricFamily("isochrone_cost_dollars", "What attempts cost.", labels=["region"])
        expected = CounterMetricFamily("isochrone_expected_cost_dollars", "What they should have.", labels=["region"])
        accelerator = CounterMetricFamily("isochrone_accelerator_seconds", "Accelerator time used.", labels=["region"])
        tokens = CounterMetricFamily("isochrone_output_tokens", "Output tokens reported.", labels=["region"])
        for region, traffic in self._regions.items():
            for status, count in traffic.dispatched.items():
                dispatched.add_metric([region, status.value], count)
            for reason, count in traffic.outcomes.items():
                outcomes.add_metric([region, reason.label if reason else "ok"], count)
            if traffic.client_errors:
                outcomes.add_metric([region, "client_error"], traffic.client_errors)
            cost.add_metric([region], traffic.cost)
            expected.add_metric([region], traffic.expected_cost)
            accelerator.add_metric([region], traffic.accelerator)
            tokens.add_metric([region], traffic.tokens)
        yield from (dispatched, outcomes, cost, expected, accelerator, tokens)
        yield CounterMetricFamily("isochrone_retries", "Attempts after a request's first.", value=self._retries)

    def _counted(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for name, count in self._counts.items():
            counter = COUNTERS[name]
            labels = [counter.label] if counter.label else []
            if counter.family not in families:
                families[counter.family] = CounterMetricFamily(
                    f"isochrone_{counter.family}", counter.help, labels=labels
                )
            families[counter.family].add_metric([counter.value] if counter.label else [], count)
        yield from families.values()


def _plain(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], list(histogram.cumulated()), histogram.sum)
    return family
