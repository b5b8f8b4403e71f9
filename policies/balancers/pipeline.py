"""The house policy as filters, a scorer and a picker over single nodes: slow, readable, and the fast pick's oracle.

The vocabulary is that of the Gateway API endpoint picker (filter, scorer, picker). Property tests hold
`CheapestInDeadline` equal to `CHEAPEST_IN_DEADLINE` here on random fleets, node for node, with the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.balancers.cheapest_in_deadline import TIER
from policies.columns import Columns, allows
from policies.node import Node
from policies.request import Request


@dataclass(frozen=True)
class View:
    """One node as one request sees it."""

    node: Node
    columns: Columns
    request: Request
    now: float

    def numbers(self) -> tuple[Any, Any, Any, Any]:
        return self.columns.at(self.node.slot, self.request)


Filter = Callable[[View], bool]
Scorer = Callable[[View], Any]
Picker = Callable[[list[tuple[Any, View]], random.Random], View]


def accepting(view: View) -> bool:
    return bool(view.columns.accepts[view.node.slot])


def good_enough(view: View) -> bool:
    return bool(view.columns.quality[view.node.slot] >= np.float32(view.request.quality))


def selected(view: View) -> bool:
    return allows(view.request.selection, view.node)


def affordable(view: View) -> bool:
    return bool(view.numbers()[3] <= np.float32(view.request.max_cost))


def in_time(view: View) -> bool:
    total, first, spread, _ = view.numbers()
    return bool(view.columns.in_time(view.node.slot, view.request, total, first, spread, view.now))


def cost(view: View) -> Any:
    return view.numbers()[3]


def sooner_of_two_cheapest(scored: list[tuple[Any, View]], rng: random.Random) -> View:
    """Of two random ones within a tier of the lowest score, the one with the lower total."""
    limit = min(score for score, _ in scored) * np.float32(TIER)
    tier = [view for score, view in scored if score <= limit]
    if len(tier) == 1:
        return tier[0]
    first = int(rng.random() * len(tier))
    second = int(rng.random() * (len(tier) - 1))
    pair = tier[first], tier[second + (second >= first)]
    return min(pair, key=lambda view: view.numbers()[0])


@dataclass(frozen=True)
class Pipeline:
    """Filters, then one scorer, then one picker."""

    filters: tuple[Filter, ...]
    scorer: Scorer
    picker: Picker

    def pick(
        self, columns: Columns, request: Request, now: float, rng: random.Random, avoid: Collection[str] = ()
    ) -> Node | None:
        views = [View(node, columns, request, now) for node in columns.nodes if node.worker.id not in avoid]
        fit = [view for view in views if all(accepts(view) for accepts in self.filters)]
        if not fit:
            return None
        return self.picker([(self.scorer(view), view) for view in fit], rng).node


CHEAPEST_IN_DEADLINE = Pipeline(
    filters=(accepting, good_enough, selected, affordable, in_time), scorer=cost, picker=sooner_of_two_cheapest
)
