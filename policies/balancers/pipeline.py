"""The house policy as filters, a scorer and a picker over single nodes: slow, readable, and the fast pick's oracle.

The vocabulary is that of the Gateway API endpoint picker (filter, scorer, picker). Property tests hold
`CheapestInDeadline` equal to `CHEAPEST_IN_DEADLINE` here on random fleets, node for node, with the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from policies.balancers.cheapest_in_deadline import TIER
from policies.columns import Columns, Row, allows, expected_cost, in_time, predict
from policies.node import Node
from policies.request import Request


@dataclass(frozen=True)
class View:
    """One node as one request sees it."""

    node: Node
    columns: Columns
    request: Request
    now: float

    @property
    def row(self) -> Row:
        return self.columns.row(self.node.slot)


Filter = Callable[[View], bool]
Scorer = Callable[[View], Any]
Picker = Callable[[list[tuple[Any, View]], random.Random], View]


def accepting(view: View) -> bool:
    return bool(view.columns.accepts[view.node.slot])


def good_enough(view: View) -> bool:
    return bool(view.row.quality >= view.request.quality)


def selected(view: View) -> bool:
    return allows(view.request.selection, view.node)


def affordable(view: View) -> bool:
    return bool(cost(view) <= view.request.max_cost)


def punctual(view: View) -> bool:
    total, first, spread = predict(view.row, view.request)
    return bool(in_time(view.row, view.request, total, first, spread, view.now))


def cost(view: View) -> Any:
    return expected_cost(view.row, view.request)


def sooner_of_two_cheapest(scored: list[tuple[Any, View]], rng: random.Random) -> View:
    """Of two random ones within a tier of the lowest score, the one with the lower total."""
    limit = min(score for score, _ in scored) * TIER
    tier = [view for score, view in scored if score <= limit]
    if len(tier) == 1:
        return tier[0]
    first = int(rng.random() * len(tier))
    second = int(rng.random() * (len(tier) - 1))
    pair = tier[first], tier[second + (second >= first)]
    return min(pair, key=lambda view: predict(view.row, view.request)[0])


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
    filters=(accepting, good_enough, selected, affordable, punctual), scorer=cost, picker=sooner_of_two_cheapest
)
