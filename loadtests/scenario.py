"""A scenario: the regions, the round trips between them, the workers and the routes of one small world.

Read from YAML into frozen structs; an unknown key or a bad value is refused with the path of the field. The demo,
the live tests and the WAN proxy all start from it. The one shipped is `scenarios/demo.yaml`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from ruamel.yaml import YAML, YAMLError

DEMO = "demo.yaml"

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class ScenarioError(Exception):
    """The file cannot be used; the text says where and why."""


class Drawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How round trips depart from their mean (delay.py)."""

    min_ms: NotNegative
    mdev_ms: NotNegative


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place with workers and perhaps a gateway."""

    source_address: str
    """The loopback address traffic from this region leaves from: how the WAN proxy tells regions apart."""
    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    local_rtt_ms: NotNegative = 0.0
    """Round trip inside the region."""
    local_jitter_ms: NotNegative = 0.0
    local_drawn: Drawn | None = None


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way between two regions, the same in both directions."""

    between: tuple[str, str]
    rtt_ms: Positive
    jitter_ms: NotNegative = 0.0
    """Each direction waits rtt/2 plus or minus up to half of this."""
    drawn: Drawn | None = None
    """Drawn as the simulator draws it, instead of the jitter."""


class WorkerPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A worker to start."""

    id: str
    region: str
    zone: str = ""
    cloud: str = ""
    accelerator: str = ""
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    variants: Annotated[tuple[str, ...], Meta(min_length=1)]
    usd_per_hour: NotNegative
    egress_usd_per_gb: NotNegative = 0.0
    power_watts: NotNegative = 0.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One world. Every pair of regions has exactly one leg; every worker stands in a known region."""

    name: str
    seed: int = 1
    regions: dict[str, Region]
    legs: tuple[Leg, ...]
    gateways: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Regions that get a gateway, in the order `--gateways N` takes them."""
    workers: Annotated[tuple[WorkerPlan, ...], Meta(min_length=1)]
    routes: tuple[dict[str, Any], ...] = ()
    """As in gateway.yaml; the gateway itself checks them."""

    def __post_init__(self) -> None:
        known = set(self.regions)
        _refuse_unknown("gateways", self.gateways, known)
        _refuse_unknown("workers", (worker.region for worker in self.workers), known)
        _refuse_unknown("legs", (end for leg in self.legs for end in leg.between), known)
        _refuse_twice("workers", (worker.id for worker in self.workers))
        _refuse_twice("regions", (region.source_address for region in self.regions.values()))
        for name, region in self.regions.items():
            if not ipaddress.ip_address(region.source_address).is_loopback:
                raise ValueError(f"region {name!r}: source_address {region.source_address} is not a loopback address")
        pairs = {frozenset((a, b)) for a in known for b in known if a != b}
        joined = Counter(frozenset(leg.between) for leg in self.legs)
        for pair in pairs | set(joined):
            if joined[pair] != 1:
                raise ValueError(f"legs: {joined[pair]} legs join {sorted(pair)}, one was expected")

    def round_trip(self, a: str, b: str) -> tuple[float, float]:
        """Round trip and its jitter between two regions, in seconds."""
        if a == b:
            return self.regions[a].local_rtt_ms / 1e3, self.regions[a].local_jitter_ms / 1e3
        leg = next(leg for leg in self.legs if set(leg.between) == {a, b})
        return leg.rtt_ms / 1e3, leg.jitter_ms / 1e3

    def drawn(self, a: str, b: str) -> Drawn | None:
        """How the round trip between two regions departs from its mean, where that is told."""
        if a == b:
            return self.regions[a].local_drawn
        return next(leg for leg in self.legs if set(leg.between) == {a, b}).drawn


def _refuse_unknown(field: str, names: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"{field}: no such region {unknown[0]!r}; there are {', '.join(sorted(known))}")


def _refuse_twice(field: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{field}: {name!r} stands there {times} times")


def load(path: Path | None = None) -> Scenario:
    """Read a scenario file; without one, the shipped demo's."""
    source = path if path is not None else resources.files("loadtests") / "scenarios" / DEMO
    try:
        return msgspec.convert(YAML(typ="safe", pure=True).load(source.read_text()), Scenario)
    except OSError as error:
        raise ScenarioError(f"{source}: {error.strerror or error}") from error
    except (YAMLError, msgspec.ValidationError) as error:
        raise ScenarioError(f"{source}: {error}") from error


def save(scenario: Scenario, path: Path) -> None:
    """Write a scenario so that `load` reads the same one back."""
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(msgspec.to_builtins(scenario), file)
