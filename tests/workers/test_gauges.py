import msgspec
import pytest

from policies.records import DeviceLoad, decode_load, encode_load
from policies.reports import Report, boot_mark, decode_report
from tests.workers.fakes import Echo, endpoint, plan, tensor_entry, text_entry
from tests.workers.nvml import Card, Nvml
from workers.batcher import Batcher
from workers.devices import devices
from workers.engines.text import Sampling
from workers.gauges import Gauges, backlog
from workers.monitor import Monitor
from workers.queue import Job, Queue
from workers.runners import Batched, Generation, Slotted


def job(lane="m:fp32", items=1, prompt=0, output=0, work=None):
    return Job(lane, work, arrived=0.0, items=items, prompt_tokens=prompt, output_tokens=output)


def text(output, prompt=10):
    return job("m:fp32", 1, prompt, output, Generation([1], Sampling(max_tokens=output)))


def test_tensors_that_wait_are_counted_in_full_batches():
    runner = Batched(endpoint(base=0.010, item=0.005, max_batch=4), list)
    queue = Queue(100)
    queue.push([job(items=2) for _ in range(3)])
    assert backlog({"m:fp32": runner}, queue, 0.0) == pytest.approx(2 * 0.010 + 4 * 0.005)


def test_the_running_batch_counts_for_what_is_left_of_it():
    runner = Batched(endpoint(base=0.010, item=0.005, max_batch=4), lambda works: works)
    queue = Queue(100)
    queue.push([job(), job()])
    plan(runner, queue, 1.0)
    assert backlog({"m:fp32": runner}, queue, 1.005) == pytest.approx(0.010)
    assert backlog({"m:fp32": runner}, queue, 2.0) == 0.0


def test_what_waits_in_longer_buckets_counts_for_more():
    runner = Batched(endpoint(base=0.010, item=0.010, max_batch=4), list, length=32)
    queue = Queue(100)
    queue.push([Job("m:fp32", None, arrived=0.0, bucket=bucket) for bucket in (32, 64, 64)])
    assert backlog({"m:fp32": runner}, queue, 0.0) == pytest.approx(0.01 + 2 * 0.02, rel=1e-3)


def test_text_with_a_free_slot_starts_at_once():
    runner = Slotted(endpoint(base=0.0, prefill=0.001, decode=0.01), Echo(slots=2))
    queue = Queue(100)
    queue.push([text(100)])
    plan(runner, queue, 0.0)
    assert backlog({"m:fp32": runner}, queue, 0.0) == 0.0


def test_text_without_a_free_slot_waits_for_the_earliest():
    runner = Slotted(endpoint(base=0.0, prefill=0.001, decode=0.01), Echo(slots=2))
    queue = Queue(100)
    queue.push([text(100), text(40)])
    plan(runner, queue, 0.0)
    assert backlog({"m:fp32": runner}, queue, 0.0) == pytest.approx(0.40)
    queue.push([text(30)])
    assert backlog({"m:fp32": runner}, queue, 0.0) == pytest.approx(0.40 + 0.01 + 0.30)
    queue.push([text(30)])
    assert backlog({"m:fp32": runner}, queue, 0.0) == pytest.approx(1.00), "both slots taken again"


async def test_the_load_record_says_what_waits_and_never_goes_back():
    entries = [text_entry(), tensor_entry()]
    batcher = Batcher({entry.lane: entry.runner for entry in entries}, Queue(10))
    gauges = Gauges("b00t", batcher, lambda: 0)
    gauges.worker_id = "w1"
    work = Generation([1], Sampling(max_tokens=20))
    batcher.submit([Job("echo:fp32", work, arrived=0.0, prompt_tokens=5, output_tokens=20)])
    batcher.submit([job("double:fp32", items=3)])
    first = gauges.load()
    batcher.draining = True
    assert batcher.submit([job("double:fp32")]) is not None
    second = gauges.load()
    assert (first.worker, first.boot, first.waiting, first.running) == ("w1", "b00t", 2, 0)
    assert (first.tokens_waiting, first.draining, second.draining) == (25, False, True)
    assert (first.arrived, second.arrived) == (2, 2), "what is refused is not accepted"
    assert first.backlog > 0
    assert second.seq > first.seq
    assert decode_load(encode_load(first)) == first
    batcher.close()


class Ticking:
    """A clock that each reading moves on by `step`."""

    def __init__(self):
        self.now, self.step = 100.0, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


def reported(gauges):
    report = decode_report(gauges.report().encode())
    assert isinstance(report, Report)
    return report


async def test_a_report_is_the_load_of_its_moment():
    entry = tensor_entry()
    batcher = Batcher({entry.lane: entry.runner}, Queue(10), Ticking())
    gauges = Gauges("b00t", batcher, lambda: 0)
    before = reported(gauges)
    batcher.submit([job("double:fp32", items=3)])
    after = reported(gauges)
    assert (before.waiting, before.arrived, before.boot) == (0, 0, boot_mark("b00t"))
    assert (after.waiting, after.running, after.arrived) == (1, 0, 1)
    assert after.backlog > 0
    assert after.seq > before.seq
    batcher.close()


async def test_reports_that_are_dear_take_no_more_than_a_tenth_of_the_time():
    entry, clock, cpu = tensor_entry(), Ticking(), Ticking()
    batcher = Batcher({entry.lane: entry.runner}, Queue(10), clock)
    gauges = Gauges("b00t", batcher, lambda: 0, cpu)
    assert gauges.report() != gauges.report(), "those that cost nothing are all new"
    cpu.step = 0.001
    dear = gauges.report()
    clock.now += 0.0089
    assert gauges.report() == dear
    clock.now += 0.0002
    assert gauges.report() != dear
    batcher.close()


async def test_a_report_says_how_full_the_worker_is_and_how_fast_requests_come():
    entry, clock = tensor_entry(), Ticking()
    batcher = Batcher({entry.lane: entry.runner}, Queue(100), clock)
    gauges = Gauges("b00t", batcher, lambda: 0)

    def standard():
        document = msgspec.json.decode(gauges.report().removeprefix("JSON "))
        return document["application_utilization"], document["rps_fractional"]

    assert standard() == (0.0, 0.0)
    for _ in range(6):
        batcher.submit([job("double:fp32")])
    clock.now += 2.0
    assert standard() == (6 / entry.endpoint.max_batch, 3.0)
    clock.now += 0.5
    assert standard()[1] == 3.0, "too soon for a new rate"
    clock.now += 0.5
    assert standard()[1] == 0.0
    batcher.close()


async def test_the_page_has_our_names_and_the_model_servers():
    entries = [text_entry(), tensor_entry(), tensor_entry(variant="int8")]
    batcher = Batcher({entry.lane: entry.runner for entry in entries}, Queue(10))
    batcher.submit([job("double:fp32"), job("double:int8")])
    entries[1].runner.tally.ended["ok"] += 3
    page = Gauges("b", batcher, lambda: 4).page().decode()
    assert 'vllm:num_requests_waiting{model_name="double"} 2.0' in page
    assert 'vllm:num_requests_running{model_name="echo"} 0.0' in page
    assert 'vllm:kv_cache_usage_perc{model_name="echo"} 0.0' in page
    assert 'isochrone_worker_waiting{model="double",variant="int8"} 1.0' in page
    assert 'isochrone_worker_requests_total{model="double",outcome="ok",variant="fp32"} 3.0' in page
    assert "isochrone_worker_heartbeat_failures_total 4.0" in page
    assert 'isochrone_worker_batch_item_seconds{model="double",variant="int8"} 0.005' in page
    batcher.close()


async def test_the_load_and_the_page_say_how_the_device_is():
    [device] = devices(Nvml(Card(total=100, used=40)))
    monitor = Monitor(device)
    await monitor.look()
    entry = tensor_entry()
    batcher = Batcher({entry.lane: entry.runner}, Queue(10))
    gauges = Gauges("b00t", batcher, lambda: 0, monitor=monitor)
    gauges.worker_id = "w1"
    load = gauges.load()
    assert load.device == DeviceLoad(memory=0.4, busy=0.35, watts=250.0, celsius=61)
    assert decode_load(encode_load(load)) == load
    assert 'isochrone_worker_device_memory_bytes{device="GPU-0"} 40.0' in gauges.page().decode()
    assert Gauges("b00t", batcher, lambda: 0).load().device is None
    batcher.close()
