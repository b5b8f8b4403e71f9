"""A fake NVML: cards that can be split, filled, heated and lost, with the names of nvidia-ml-py."""

from __future__ import annotations

from types import SimpleNamespace


class NVMLError(Exception):
    """What NVML raises for everything it cannot tell."""


class Card:
    """One card, or one MIG instance of a card (which has no utilisation of its own)."""

    def __init__(self, uuid="GPU-0", total=80 << 30, used=0, instances=(), *, mig=False, energy=True):
        self.uuid, self.total, self.used = uuid, total, used
        self.instances, self.mig, self.energy = list(instances), mig or bool(instances), energy
        self.name = "NVIDIA H100 80GB HBM3"
        self.busy, self.milliwatts, self.celsius, self.millijoules = 35, 250_000, 61, 5_000_000
        self.lost = False


class Nvml:
    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *cards):
        self.cards = list(cards)

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.cards[index]

    def nvmlDeviceGetName(self, card):
        return card.name

    def nvmlDeviceGetUUID(self, card):
        return card.uuid

    def nvmlDeviceGetMigMode(self, card):
        if card.mig is None:
            raise NVMLError("Not Supported")
        return int(card.mig), int(card.mig)

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        places = dict(enumerate(card.instances))
        if places.get(index) is None:
            raise NVMLError("Not Found")
        return places[index]

    def nvmlDeviceGetMemoryInfo(self, card):
        if card.lost:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(total=card.total, used=card.used, free=card.total - card.used)

    def nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=card.busy, memory=10)

    def nvmlDeviceGetPowerUsage(self, card):
        return card.milliwatts

    def nvmlDeviceGetEnforcedPowerLimit(self, card):
        return 700_000

    def nvmlDeviceGetTemperature(self, card, sensor):
        return card.celsius

    def nvmlDeviceGetTotalEnergyConsumption(self, card):
        if not card.energy:
            raise NVMLError("Not Supported")
        return card.millijoules
