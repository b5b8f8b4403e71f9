"""A device that runs short of memory refuses before it dies, and takes requests again when there is room."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from policies.reason import Reason
from policies.records import DeviceLoad
from tests.workers.nvml import Card, Nvml
from workers.devices import devices
from workers.monitor import Monitor

GB = 10**9


@pytest.fixture
def card():
    return Card(total=100 * GB, used=50 * GB)


@pytest.fixture
def monitor(card):
    [device] = devices(Nvml(card))
    return Monitor(device)


async def test_the_load_record_says_how_the_device_is(monitor):
    assert monitor.load() is None
    await monitor.look()
    assert monitor.load() == DeviceLoad(memory=0.5, busy=0.35, watts=250.0, celsius=61)


async def test_short_of_memory_it_refuses_until_there_is_room_to_spare(monitor, card):
    await monitor.look()
    assert monitor.refusal() is None
    card.used = 99 * GB
    await monitor.look()
    refused = monitor.refusal()
    assert refused.reason is Reason.OVERLOADED
    assert refused.message == "This worker's accelerator is short of memory: 99.0 GB of 100.0 GB are taken."
    assert not refused.executed, "so a gateway may send it elsewhere"
    card.used = 98 * GB
    await monitor.look()
    assert monitor.refusal() is not None, "two percent free are not enough to begin again"
    card.used = 96 * GB
    await monitor.look()
    assert monitor.refusal() is None


async def test_a_device_that_stops_answering_keeps_its_last_reading(monitor, card, caplog):
    await monitor.look()
    card.lost = True
    await monitor.look()
    await monitor.look()
    assert monitor.load().memory == 0.5
    assert caplog.text.count("GPU is lost") == 1, "said once"


async def test_it_reads_on_by_itself(monitor, monkeypatch):
    monkeypatch.setattr("workers.monitor.PERIOD", 0.001)
    looked, third = [], asyncio.Event()

    async def look():
        looked.append(monitor)
        if len(looked) == 3:
            third.set()

    monkeypatch.setattr(monitor, "look", look)
    running = asyncio.ensure_future(monitor.run())
    await third.wait()
    running.cancel()


async def test_metrics_leave_out_what_the_device_does_not_tell(monitor, card):
    class Page:
        def collect(self):
            return monitor.metrics()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    assert generate_latest(registry) == b""
    card.energy = False
    await monitor.look()
    page = generate_latest(registry).decode()
    assert 'isochrone_worker_device_memory_bytes{device="GPU-0"} 5e+10' in page
    assert 'isochrone_worker_device_watts{device="GPU-0"} 250.0' in page
    assert "joules" not in page
