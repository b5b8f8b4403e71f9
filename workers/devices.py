"""The accelerators of this machine as NVML sees them: whole cards, and MIG instances as devices of their own.

NVML is an argument (the module `pynvml` of nvidia-ml-py, or a fake): what a card cannot tell is None, never a guess.
Nothing here changes a setting of a card. What a worker may use of a device is allocation.py's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from workers.memory import said


class Reading(NamedTuple):
    """A device at one moment."""

    memory_used: int
    """Bytes, by whichever process."""
    memory_total: int
    utilisation: float | None
    """Share of the last sample period (up to a second) in which a kernel ran. MIG instances don't tell."""
    watts: float | None
    celsius: float | None
    joules: float | None
    """Since the driver was loaded: a difference of two is the energy between them. The counter's own period can be
    100 ms, so intervals below two seconds say little."""


class Device:
    """One card, or one MIG instance of a card: then power and temperature are the whole card's, because no instance
    has any of its own."""

    def __init__(self, nvml: Any, handle: Any, card: Any, *, instance: bool) -> None:
        self._nvml, self._handle, self._card = nvml, handle, card
        self.instance = instance
        self.name: str = nvml.nvmlDeviceGetName(handle)
        self.uuid: str = nvml.nvmlDeviceGetUUID(handle)
        """What CUDA_VISIBLE_DEVICES takes."""
        limit = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(card))
        self.power_limit: float | None = None if limit is None else limit / 1e3
        """Watts."""

    def read(self) -> Reading:
        """Raises NVMLError when the device is gone (fallen off the bus, an instance destroyed)."""
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(self._handle)
        busy = None if self.instance else self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(self._card).gpu)
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(self._card))
        energy = self._ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(self._card))
        return Reading(
            memory_used=memory.used,
            memory_total=memory.total,
            utilisation=None if busy is None else busy / 100,
            watts=None if power is None else power / 1e3,
            celsius=self._ask(lambda: nvml.nvmlDeviceGetTemperature(self._card, nvml.NVML_TEMPERATURE_GPU)),
            joules=None if energy is None else energy / 1e3,
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def load_nvml() -> Any:
    """nvidia-ml-py, initialised; None on a machine without it, or without an NVIDIA driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def devices(nvml: Any) -> list[Device]:
    """Every device a worker can have to itself: a card split into MIG instances is not one, its instances are."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(index)
        parts = _instances(nvml, card)
        if parts:
            found += [Device(nvml, part, card, instance=True) for part in parts]
        else:
            found.append(Device(nvml, card, card, instance=False))
    return found


def _instances(nvml: Any, card: Any) -> list[Any]:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError:
        return []  # no card before Ampere has the mode
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return []
    handles = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
        except nvml.NVMLError:
            continue  # places without an instance are left out of no numbering
    return handles


def row(place: int, device: Device) -> dict[str, Any]:
    """One device as a list of them shows it."""
    reading = device.read()
    return {
        "device": place,
        "uuid": device.uuid,
        "name": device.name,
        "memory": f"{said(reading.memory_used)} of {said(reading.memory_total)}",
        "busy": None if reading.utilisation is None else f"{reading.utilisation:.0%} busy",
        "power": None if reading.watts is None else f"{reading.watts:.0f} W",
        "temperature": None if reading.celsius is None else f"{reading.celsius:.0f} °C",
    }


def chosen(nvml: Any, wanted: str) -> Device:
    """The device of this UUID, or at this place among `devices`. Raises ValueError naming those there are."""
    there = devices(nvml)
    for place, device in enumerate(there):
        if wanted in (device.uuid, str(place)):
            return device
    names = ", ".join(f"{place} ({device.name}, {device.uuid})" for place, device in enumerate(there))
    raise ValueError(f"no device {wanted!r}: this machine has {names or 'none'}")


def of_torch(uuid: str) -> Device | None:
    """NVML's view of the device that torch knows by this UUID (which lacks NVML's prefix), if it has one."""
    nvml = load_nvml()
    return next((device for device in devices(nvml) if uuid in device.uuid), None) if nvml else None
