"""What a worker says about itself: the load record, answered from memory, and the /metrics page.

The backlog is an estimate from the service curves of what waits and runs; gateways correct it by what they sent
since. Beside `isochrone_worker_*` stand the `vllm:*` names of the model server protocol, so that other routers can
read a worker too. On the path of a request is only `report`, which bounds its own share of the worker's time.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from policies.records import Load, Timings
from policies.reports import encode_report, with_cost
from workers.batcher import Batcher
from workers.monitor import Monitor
from workers.queue import Job, Queue
from workers.runners import Batched, Runner, Slotted

CHEAP_REPORT = 1e-4
"""Seconds of CPU below which every answer gets a report of its own: a third of what the answer itself costs."""
REPORT_REST = 9.0
"""Times the cost of a dearer one during which the next answers carry it too: a long queue takes long to estimate, and
gets a tenth of the time at most."""
RATE_SECONDS = 1.0
"""Least time over which the rate of requests is measured."""
MAX_BACKLOG = 3600.0
"""Bound of the record's field; whoever waits an hour is not served by a finer figure."""


class Gauges(Collector):
    """Reads the batcher's state; keeps only the sequence of the load records it gave out, and the last report."""

    def __init__(
        self,
        boot: str,
        batcher: Batcher,
        failed_beats: Callable[[], int],
        cpu: Callable[[], float] = time.thread_time,
        monitor: Monitor | None = None,
    ) -> None:
        self.worker_id = ""
        """Known once the server listens: by default it contains the port."""
        self._boot = boot
        self._batcher = batcher
        self._failed_beats = failed_beats
        self._cpu = cpu
        self._monitor = monitor
        self._seq = 0
        self._report = ""
        self._report_until = -math.inf
        self._rate = 0.0
        self._rate_from = (batcher.clock(), 0)
        """Since when the rate is being measured, and how many requests had been accepted then."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def load(self) -> Load:
        """The load record as of now; every reading has a sequence above the one before."""
        self._seq += 1
        queue, runners = self._batcher.queue, self._batcher.runners
        return Load(
            worker=self.worker_id,
            boot=self._boot,
            seq=self._seq,
            waiting=len(queue),
            running=sum(len(runner.running) for runner in runners.values()),
            backlog=min(backlog(runners, queue, self._batcher.clock()), MAX_BACKLOG),
            tokens_waiting=sum(
                job.prompt_tokens + job.output_tokens for lane in runners for job in queue.waiting(lane)
            ),
            kv_use=max((runner.kv_use for runner in runners.values() if isinstance(runner, Slotted)), default=0.0),
            draining=self._batcher.draining,
            arrived=self._batcher.accepted,
            device=self._monitor.load() if self._monitor else None,
        )

    def report(self, spent: Timings | None = None) -> str:
        """The load as an answer carries it (policies/reports.py), with what that answer cost."""
        report = self._current()
        return report if spent is None else with_cost(report, spent)

    def _current(self) -> str:
        now = self._batcher.clock()
        if now >= self._report_until:
            begun = self._cpu()
            self._report = self._made_report(now)
            cost = self._cpu() - begun
            self._report_until = now + REPORT_REST * cost if cost > CHEAP_REPORT else now
        return self._report

    def _made_report(self, now: float) -> str:
        load = self.load()
        slots = max(runner.endpoint.max_batch for runner in self._batcher.runners.values())
        since, accepted = self._rate_from
        if now - since >= RATE_SECONDS:
            self._rate = (load.arrived - accepted) / (now - since)
            self._rate_from = (now, load.arrived)
        return encode_report(load, ((load.waiting or 0) + (load.running or 0)) / slots, self._rate)

    def page(self) -> bytes:
        """The /metrics page, Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._worker_metrics()
        yield from self._model_server_metrics()
        if self._monitor is not None:
            yield from self._monitor.metrics()

    def _worker_metrics(self) -> Iterator[Metric]:
        load = self.load()
        yield GaugeMetricFamily("isochrone_worker_backlog_seconds", "Until a new request starts.", load.backlog)
        yield GaugeMetricFamily("isochrone_worker_draining", "1 while shutting down.", int(load.draining))
        beats = "Heartbeats the registry did not take."
        yield CounterMetricFamily("isochrone_worker_heartbeat_failures", beats, self._failed_beats())
        labels = ["model", "variant"]
        waiting = GaugeMetricFamily("isochrone_worker_waiting", "Requests in the queue.", labels=labels)
        running = GaugeMetricFamily("isochrone_worker_running", "Requests on the accelerator.", labels=labels)
        ended = CounterMetricFamily("isochrone_worker_requests", "Requests ended.", labels=[*labels, "outcome"])
        accel = CounterMetricFamily("isochrone_worker_accelerator_seconds", "Accelerator time.", labels=labels)
        tokens = CounterMetricFamily("isochrone_worker_generated_tokens", "Tokens generated.", labels=labels)
        batch = SummaryMetricFamily("isochrone_worker_batch_items", "Items per engine call.", labels=labels)
        queued = SummaryMetricFamily("isochrone_worker_queue_seconds", "Time in the queue.", labels=labels)
        fixed = GaugeMetricFamily("isochrone_worker_batch_fixed_seconds", "What any batch takes.", labels=labels)
        item = GaugeMetricFamily("isochrone_worker_batch_item_seconds", "And each item of it.", labels=labels)
        caution = GaugeMetricFamily("isochrone_worker_batch_caution_ratio", "What plans multiply it by.", labels=labels)
        for lane, runner in self._batcher.runners.items():
            names, tally = [runner.endpoint.model, runner.endpoint.variant], runner.tally
            waiting.add_metric(names, sum(1 for _ in self._batcher.queue.waiting(lane)))
            running.add_metric(names, len(runner.running))
            for outcome, count in tally.ended.items():
                ended.add_metric([*names, outcome], count)
            accel.add_metric(names, tally.accel)
            tokens.add_metric(names, tally.tokens)
            batch.add_metric(names, count_value=tally.calls, sum_value=tally.items)
            queued.add_metric(names, count_value=tally.started, sum_value=tally.queued)
            if isinstance(runner, Batched):
                for family, figure in zip((fixed, item, caution), runner.service(), strict=True):
                    family.add_metric(names, figure)
        yield from (waiting, running, ended, accel, tokens, batch, queued, fixed, item, caution)

    def _model_server_metrics(self) -> Iterator[Metric]:
        """The three gauges every model server owes its router, under the names routers know best: vLLM's."""
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests waiting.", labels=["model_name"])
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests running.", labels=["model_name"])
        kv_use = GaugeMetricFamily("vllm:kv_cache_usage_perc", "KV cache in use, 0 to 1.", labels=["model_name"])
        by_model: dict[str, list[float]] = {}
        for lane, runner in self._batcher.runners.items():
            figures = by_model.setdefault(runner.endpoint.model, [0, 0, 0.0])
            figures[0] += sum(1 for _ in self._batcher.queue.waiting(lane))
            figures[1] += len(runner.running)
            figures[2] = max(figures[2], runner.kv_use if isinstance(runner, Slotted) else 0.0)
        for model, figures in by_model.items():
            for family, figure in zip((waiting, running, kv_use), figures, strict=True):
                family.add_metric([model], figure)
        yield from (waiting, running, kv_use)


def backlog(runners: Mapping[str, Runner], queue: Queue, now: float) -> float:
    """Seconds until a request arriving now would start: all batches ahead of it, and the longest wait for a slot."""
    batches, slots = 0.0, 0.0
    for lane, runner in runners.items():
        waiting = list(queue.waiting(lane))
        if isinstance(runner, Slotted):
            slots = max(slots, _slot_wait(runner, waiting))
        elif isinstance(runner, Batched):
            batches += _batch_wait(runner, waiting) + _left(runner, now)
    return batches + slots


def _left(runner: Batched, now: float) -> float:
    """What the batch on the accelerator should still take."""
    if not runner.running:
        return 0.0
    first = runner.running[0]
    begun = first.started if first.started is not None else now
    items = sum(job.items for job in runner.running)
    return max(runner.service(first.bucket).seconds(items) - (now - begun), 0.0)


def _batch_wait(runner: Batched, waiting: list[Job]) -> float:
    """What waits, in full batches."""
    items: dict[int, int] = {}
    for job in waiting:
        items[job.bucket] = items.get(job.bucket, 0) + job.items
    seconds = 0.0
    for bucket, count in items.items():
        service, full = runner.service(bucket), runner.most(bucket)
        calls, rest = divmod(count, full)
        seconds += calls * service.seconds(full) + (service.seconds(rest) if rest else 0.0)
    return seconds


def _slot_wait(runner: Slotted, waiting: list[Job]) -> float:
    """When the next slot is free once everyone waiting has had one: slots played forward."""
    curve = runner.endpoint.curve
    frees = [max(job.output_tokens - job.generated, 0) * runner.pace for job in runner.running]
    if len(frees) + len(waiting) < runner.slots:
        return 0.0
    frees += [0.0] * (runner.slots - len(frees))
    heapq.heapify(frees)
    for job in sorted(waiting, key=lambda job: job.urgency):
        takes = curve.seconds(job.prompt_tokens) + runner.pace * job.output_tokens
        heapq.heapreplace(frees, frees[0] + takes)
    return frees[0]
