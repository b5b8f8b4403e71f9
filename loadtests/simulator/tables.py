"""Measured tables given by path, in place of a world's own figures: round trips, prices, carbon.

    round trips  src, dst, rtt_min_ms, rtt_avg_ms, rtt_mdev_ms
    prices       region, accelerator, usd_per_hour; or SkyPilot's catalogue, with count and spot_usd_h
    carbon       region, g_per_kwh; or Google Cloud's yearly table, or Cloud Carbon Footprint's factors

The columns tell the form.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtests.rows import FileError, peek, read
from loadtests.simulator.world import Nodes, Place, RoundTrip, World

_RTT = frozenset({"src", "dst", "rtt_min_ms", "rtt_avg_ms", "rtt_mdev_ms"})
_PRICE = {
    frozenset({"region", "accelerator", "usd_per_hour"}): "usd_per_hour",
    frozenset({"region", "accelerator", "count", "spot_usd_h"}): "spot_usd_h",
}
"""The column of the price, by the columns that tell the form."""
_GOOGLE = ("Google Cloud Region", "Grid carbon intensity (gCO2eq / kWh)")
_FOOTPRINT = ("Region", "CO2e (metric ton/kWh)")
_CARBON = {
    frozenset({"region", "g_per_kwh"}): ("region", "g_per_kwh", 1.0),
    frozenset(_GOOGLE): (*_GOOGLE, 1.0),
    frozenset(_FOOTPRINT): (*_FOOTPRINT, 1e6),
}
"""The columns of region and intensity, and grams in the latter's unit, by the columns that tell the form."""


def pairs(regions: Collection[str]) -> list[tuple[str, str]]:
    """Every pair of regions that needs a round trip, each with itself included, once."""
    return list(itertools.combinations_with_replacement(sorted(regions), 2))


def round_trips(path: Path, regions: Collection[str]) -> tuple[RoundTrip, ...]:
    """One per pair of regions. Where both directions were measured, the lower floor and the mean of the rest."""
    rows = read(path)
    _, first = peek(path, rows, (_RTT,))
    seen: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in chain((first,), rows):
        a, b = sorted((row.text("src"), row.text("dst")))
        seen.setdefault((a, b), []).append(
            (row.number("rtt_min_ms", least=0), row.number("rtt_avg_ms", above=0), row.number("rtt_mdev_ms", least=0))
        )
    made = []
    for pair in pairs(regions):
        if pair not in seen:
            raise FileError(f"{path}: no round trip between {pair[0]} and {pair[1]}")
        low, average, deviation = zip(*seen[pair], strict=True)
        ways = len(low)
        made.append(
            RoundTrip(
                between=pair,
                min_ms=min(low),
                avg_ms=round(sum(average) / ways, 3),
                mdev_ms=round(sum(deviation) / ways, 3),
            )
        )
    return tuple(made)


def prices(path: Path) -> dict[tuple[str, str, str], float]:
    """US dollars an hour of one accelerator, by cloud, region and accelerator; the first row also stands for the cloud
    "", any. Rows without a price are left out."""
    rows = read(path)
    form, first = peek(path, rows, tuple(_PRICE))
    found: dict[tuple[str, str, str], float] = {}
    for row in chain((first,), rows):
        if row.fields[_PRICE[form]] != "":
            count = row.number("count", above=0) if "count" in form else 1.0
            usd = row.number(_PRICE[form], least=0) / count
            place = row.text("region"), row.text("accelerator")
            found.setdefault(("", *place), usd)
            if "cloud" in row.fields:
                found[row.text("cloud"), *place] = usd
    return found


def carbon(path: Path) -> dict[str, float]:
    """Grams of CO2 equivalent per kWh, by region."""
    rows = read(path)
    form, first = peek(path, rows, tuple(_CARBON))
    region, intensity, grams = _CARBON[form]
    return {row.text(region): grams * row.number(intensity, least=0) for row in chain((first,), rows)}


class Tables(NamedTuple):
    """Files whose figures take the place of a world's own."""

    round_trips: Path | None = None
    prices: Path | None = None
    carbon: Path | None = None

    def apply(self, world: World) -> World:
        """The world with these figures. Raises FileError for a region or accelerator that a table lacks."""
        if self.round_trips is not None:
            world = msgspec.structs.replace(world, round_trips=round_trips(self.round_trips, world.regions))
        if self.prices is not None:
            table = prices(self.prices)
            priced = tuple(_priced(nodes, world, table, self.prices) for nodes in world.nodes)
            world = msgspec.structs.replace(world, nodes=priced)
        if self.carbon is not None:
            world = msgspec.structs.replace(world, regions=_gridded(world.regions, carbon(self.carbon), self.carbon))
        return world


def _priced(nodes: Nodes, world: World, table: Mapping[tuple[str, str, str], float], path: Path) -> Nodes:
    accelerator = world.profiles[nodes.profiles[0]].accelerator
    usd = table.get((nodes.cloud, nodes.region, accelerator), table.get(("", nodes.region, accelerator)))
    if usd is None:
        raise FileError(f"{path}: no price of {accelerator} in {nodes.region} (nodes {nodes.name!r})")
    return msgspec.structs.replace(nodes, usd_per_hour=usd)


def _gridded(regions: Mapping[str, Place], table: Mapping[str, float], path: Path) -> dict[str, Place]:
    missing = sorted(regions.keys() - table.keys())
    if missing:
        raise FileError(f"{path}: no carbon intensity of {missing[0]}")
    return {name: msgspec.structs.replace(place, carbon_g_per_kwh=table[name]) for name, place in regions.items()}
