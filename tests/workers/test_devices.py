"""Cards and MIG instances as a fake NVML shows them; settings of a real, shared card are not ours to change."""

import sys

import pytest

from tests.workers.nvml import Card, Nvml, NVMLError
from workers import devices
from workers.devices import Reading, chosen, load_nvml, of_torch


def test_a_card_is_read_in_plain_units():
    nvml = Nvml(Card(used=20 << 30))
    [card] = devices.devices(nvml)
    assert (card.name, card.uuid, card.instance, card.power_limit) == ("NVIDIA H100 80GB HBM3", "GPU-0", False, 700.0)
    assert card.read() == Reading(20 << 30, 80 << 30, 0.35, 250.0, 61, 5000.0)


def test_what_a_card_cannot_tell_is_none():
    [card] = devices.devices(Nvml(Card(energy=False, mig=None)))
    assert card.read().joules is None


def test_the_instances_of_a_split_card_are_devices_and_the_card_is_not():
    parts = [Card("MIG-a", total=10 << 30, used=1 << 30), None, Card("MIG-b", total=40 << 30)]
    nvml = Nvml(Card("GPU-0", instances=parts), Card("GPU-1"))
    found = devices.devices(nvml)
    assert [device.uuid for device in found] == ["MIG-a", "MIG-b", "GPU-1"]
    reading = found[0].read()
    assert (reading.memory_used, reading.memory_total) == (1 << 30, 10 << 30)
    assert reading.utilisation is None, "no instance tells"
    assert reading.watts == 250.0, "the whole card's"


def test_a_card_whose_mode_is_on_but_that_was_not_split_is_one_device():
    assert [device.uuid for device in devices.devices(Nvml(Card("GPU-0", mig=True)))] == ["GPU-0"]


def test_a_lost_card_is_a_fault():
    card = Card()
    [device] = devices.devices(Nvml(card))
    card.lost = True
    with pytest.raises(NVMLError):
        device.read()


def test_a_device_is_chosen_by_place_or_by_uuid():
    nvml = Nvml(Card("GPU-0"), Card("GPU-1"))
    assert chosen(nvml, "1").uuid == chosen(nvml, "GPU-1").uuid == "GPU-1"
    with pytest.raises(ValueError, match=r"no device '2': this machine has 0 \(NVIDIA H100 80GB HBM3, GPU-0\), 1"):
        chosen(nvml, "2")
    with pytest.raises(ValueError, match="has none"):
        chosen(Nvml(), "0")


def test_without_the_library_there_is_no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert load_nvml() is None
    assert of_torch("0") is None


def test_torch_names_a_card_without_the_prefix(monkeypatch):
    monkeypatch.setattr(devices, "load_nvml", lambda: Nvml(Card("GPU-a1"), Card("GPU-b2")))
    assert of_torch("b2").uuid == "GPU-b2"
    assert of_torch("c3") is None
