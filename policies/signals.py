"""What an autoscaler may go by, per model and region (algorithm.md 2.12): where capacity is missing, where it is idle.

Computed from the columns a second apart, one model at a tick, so that no decision does anything for it; only a request
that nobody can serve in time is counted when it is routed. Work is told in nodes: one is as much as a node has slots
for. docs/signals.md says what to do with each figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from policies import cost
from policies.columns import Columns, Floats
from policies.masks import Mask
from policies.node import Node
from policies.records import ReservedPrice, Worker
from policies.request import Request
from policies.worker import KNEE

EVERY_SECONDS = 1.0
"""Between two looks at a model."""
FAST_SECONDS, SLOW_SECONDS = 15.0, 60.0
"""Time constants of two means of the work at hand. On a ramp each lags by its constant, so that their difference is the
slope: long against bursts, short against the minutes that a new node takes."""
LONGEST_SECONDS = 86_400.0
"""A runway beyond a day is noise in the slope."""
MOST_RECOUNTED = 256
"""Nodes whose outstanding requests a look should have to count anew: 0.1 ms; beyond it they are counted before."""
IDLE = 0.1
"""Share of its slots below which a node does nothing that others could not do."""
DEARER = 1.05
"""A tier: less is as cheap."""
PROMPT_TOKENS, OUTPUT_TOKENS = 1000.0, 200.0
"""The request by which nodes are compared in price, as Azure's conversations of 2023 are in the mean; only ratios
matter."""
QUEUE, DISTANCE = "queue", "distance"
"""Why nobody could serve a request in time: others were before it, or not even an idle node could."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one region of nodes."""

    model: str
    region: str
    nodes: int
    """In service."""
    busy: float
    """Nodes' worth of work at hand: more than `nodes` is a queue."""
    shadow_price: float
    """Of the dearest node at work here, its queue counted in, over the cheapest node of the model anywhere."""
    runway_s: float
    """Until the work at hand outgrows the nodes, if it goes on growing as it does; infinite while it does not grow."""
    idle_dear_share: float
    """Of the region's bill for this model's hours, the part of nodes that are idle and dearer than any at work."""


class Unmet(msgspec.Struct):
    """What nobody could serve in time, since the process started."""

    requests: int = 0
    seconds: float = 0.0
    """Of an accelerator, as predicted."""


class _Trend(NamedTuple):
    """Two means of the work at hand, and as of when."""

    at: float
    fast: float
    slow: float

    def followed(self, value: float, now: float) -> _Trend:
        span = now - self.at
        fast = self.fast + (1.0 - math.exp(-span / FAST_SECONDS)) * (value - self.fast)
        return _Trend(now, fast, self.slow + (1.0 - math.exp(-span / SLOW_SECONDS)) * (value - self.slow))

    @property
    def slope(self) -> float:
        """Nodes' worth of work a second."""
        return (self.fast - self.slow) / (SLOW_SECONDS - FAST_SECONDS)


class Signals:
    """The latest of every model, and what it could not serve."""

    def __init__(self) -> None:
        self.unmet: dict[tuple[str, str], Unmet] = {}
        """By model and cause."""
        self._latest: dict[str, dict[str, Signal]] = {}
        """By model and region."""
        self._trends: dict[tuple[str, str], _Trend] = {}
        self._looked: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Signals of {len(self._latest)} models>"

    def missed(self, columns: Columns, request: Request, crowded_out: bool) -> None:
        """Nobody can serve a request in time; `crowded_out`: only for a queue."""
        key = request.model, QUEUE if crowded_out else DISTANCE
        unmet = self.unmet.get(key)
        if unmet is None:
            unmet = self.unmet[key] = Unmet()
        node = columns.nodes[0]
        size = request.prompt_tokens, request.output_tokens, request.items
        unmet.requests += 1
        unmet.seconds += cost.accelerator_seconds(node.endpoint, *size) * node.charged()[0]

    def rows(self) -> list[Signal]:
        """All, by model and region."""
        return [regions[name] for _, regions in sorted(self._latest.items()) for name in sorted(regions)]

    def tick(self, models: Mapping[str, Columns], now: float) -> None:
        """Look at the model that has waited longest for it, if that is a second."""
        for gone in self._latest.keys() - models.keys():
            self._forget(gone)
        if not models:
            return
        for columns in models.values():
            if len(columns.recount) > MOST_RECOUNTED:
                _ = columns.outstanding  # which counts anew what has changed
        model = min(models, key=lambda name: self._looked.get(name, -math.inf))
        if now - self._looked.get(model, -math.inf) >= EVERY_SECONDS:
            self._looked[model] = now
            self._latest[model] = self._look(models[model], now)

    def _forget(self, model: str) -> None:
        del self._latest[model], self._looked[model]
        for key in [key for key in self._trends if key[0] == model]:
            del self._trends[key]

    def _look(self, columns: Columns, now: float) -> dict[str, Signal]:
        slots, hours = columns.masks.kept("slots", _slots), columns.masks.kept("hours", _hours)
        busy = np.maximum(columns.outstanding / slots, columns.wait / KNEE)
        price = columns.usd + columns.usd_prompt * PROMPT_TOKENS + columns.usd_output * OUTPUT_TOKENS
        cheapest = float(price.min())
        found = {}
        for region, here in columns.masks.kept("regions", _regions).items():
            at_work, work, nodes = here & (busy >= IDLE), float(busy[here].sum()), int((here & columns.accepts).sum())
            found[region] = Signal(
                model=columns.model,
                region=region,
                nodes=nodes,
                busy=work,
                shadow_price=_ratio(_last(price * columns.congestion, here, at_work), cheapest),
                runway_s=self._runway(columns.model, region, work, nodes, now),
                idle_dear_share=_idle_dear(price, hours, here, at_work),
            )
        return found

    def _runway(self, model: str, region: str, busy: float, nodes: int, now: float) -> float:
        key = model, region
        known = self._trends.get(key)
        trend = self._trends[key] = _Trend(now, busy, busy) if known is None else known.followed(busy, now)
        if busy >= nodes:
            return 0.0
        slope = trend.slope if busy > trend.slow else 0.0  # what has passed already grows no more
        seconds = (nodes - busy) / slope if slope > 0.0 else math.inf
        return seconds if seconds < LONGEST_SECONDS else math.inf


def _slots(nodes: Sequence[Node]) -> Floats:
    return np.fromiter((node.state.slots for node in nodes), np.float32, len(nodes))


def _hours(nodes: Sequence[Node]) -> Floats:
    return np.fromiter((_scalable(node.worker) for node in nodes), np.float32, len(nodes))


def _regions(nodes: Sequence[Node]) -> dict[str, Mask]:
    """Which nodes stand in each."""
    names = sorted({node.region for node in nodes})
    where = np.array([names.index(node.region) for node in nodes])
    return {name: where == index for index, name in enumerate(names)}


def _scalable(worker: Worker) -> float:
    """US dollars an hour that would be saved without it: what is reserved is paid in any case."""
    return 0.0 if isinstance(worker.price, ReservedPrice) else cost.hourly(worker)


def _last(price: Floats, here: Mask, at_work: Mask) -> float:
    """Of the dearest at work; of the cheapest, where nobody is."""
    return float(price[at_work].max()) if at_work.any() else float(price[here].min())


def _ratio(price: float, cheapest: float) -> float:
    """Nothing is as dear as nothing."""
    return price / cheapest if cheapest > 0.0 else 1.0


def _idle_dear(price: Floats, hours: Floats, here: Mask, at_work: Mask) -> float:
    whole = float(hours[here].sum())
    dear = here & ~at_work & (price > DEARER * _last(price, here, at_work))
    return float(hours[dear].sum()) / whole if whole > 0.0 else 0.0
