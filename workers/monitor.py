"""Watches the worker's device: its last reading, for the load record and /metrics, and whether it is short of memory.

NVML is asked on a thread of its own, once a second: an answer can take milliseconds, and never is one waited for on a
request's path. Short of memory, requests are refused before they cost anything, and gateways go elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from policies.reason import Reason
from policies.records import DeviceLoad
from workers.allocation import HEADROOM
from workers.devices import Device, Reading
from workers.memory import said
from workers.queue import Refused

log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two readings: NVML's own figures are averages over about as long."""


class Level(NamedTuple):
    """Free memory below which requests are refused, and above which they are accepted again."""

    low: float
    enough: float


class Monitor:
    """The last reading of one device. It stays what it was when the device stops answering."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.reading: Reading | None = None
        self.short = False
        """Whether memory is so short that nothing more is accepted."""
        self._failing = False

    async def run(self) -> None:
        """Read until cancelled. Never ends by itself."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Read once."""
        try:
            reading = await asyncio.to_thread(self.device.read)
        except Exception as error:  # NVML's class is known only where NVML is
            if not self._failing:
                log.warning("%s does not answer: %s", self.device.uuid, error)
            self._failing = True
            return
        self._failing = False
        self.reading = reading
        level = levels(reading.memory_total)
        free = reading.memory_total - reading.memory_used
        self.short = free < (level.enough if self.short else level.low)

    def refusal(self) -> Refused | None:
        """Why nothing more is accepted, if so."""
        if not self.short or self.reading is None:
            return None
        used, total = said(self.reading.memory_used), said(self.reading.memory_total)
        return Refused(Reason.OVERLOADED, f"This worker's accelerator is short of memory: {used} of {total} are taken.")

    def load(self) -> DeviceLoad | None:
        """The reading as the load record carries it."""
        reading = self.reading
        if reading is None:
            return None
        return DeviceLoad(
            memory=min(reading.memory_used / reading.memory_total, 1.0),
            busy=reading.utilisation,
            watts=reading.watts,
            celsius=reading.celsius,
        )

    def metrics(self) -> Iterator[Metric]:
        """The reading on the /metrics page, what the device does not tell left out."""
        reading = self.reading
        if reading is None:
            return
        labels = ["device"]
        for name, text, value in (
            ("isochrone_worker_device_memory_bytes", "Memory taken of the accelerator.", reading.memory_used),
            ("isochrone_worker_device_memory_total_bytes", "Memory of the accelerator.", reading.memory_total),
            ("isochrone_worker_device_busy_ratio", "Share of time in which it computed.", reading.utilisation),
            ("isochrone_worker_device_watts", "Power of the whole card.", reading.watts),
            ("isochrone_worker_device_celsius", "Temperature of the card.", reading.celsius),
        ):
            if value is not None:
                gauge = GaugeMetricFamily(name, text, labels=labels)
                gauge.add_metric([self.device.uuid], value)
                yield gauge
        if reading.joules is not None:
            energy = CounterMetricFamily("isochrone_worker_device_joules", "Energy of the whole card.", labels=labels)
            energy.add_metric([self.device.uuid], reading.joules)
            yield energy


def levels(total: int) -> Level:
    """Half the headroom is the floor, the whole of it is enough again: so that it does not swing with each batch."""
    return Level(low=total * HEADROOM / 2, enough=total * HEADROOM)
