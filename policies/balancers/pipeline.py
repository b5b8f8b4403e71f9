"""The house policy as filters, a scorer and a picker over single nodes: slow, readable, and the fast pick's oracle.

The vocabulary is that of the Gateway API endpoint picker (filter, scorer, picker). Property tests hold
`CheapestInDeadline` equal to `CHEAPEST_IN_DEADLINE` here on random fleets, node for node, with the same seed. Both
read the same predictions; that these agree with `Node.eta` and `Node.cost` is tested apart.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.balancers.cheapest_in_deadline import LONGEST, SPREAD, TIER
from policies.columns import Columns
from policies.masks import allows
from policies.node import Node
from policies.request import INFINITE, Request


@dataclass(frozen=True)
class View:
    """One node as one request sees it. Seconds and US dollars, as float32."""

    node: Node
    request: Request
    now: float
    accepts: bool
    quality: Any
    wait: Any
    whole: Any
    """At z spreads above the mean, ..."""
    first: Any
    """... and this to the first token."""
    pace: Any
    """Seconds per output token."""
    error: Any
    cost: Any
    z: float
    congestion: Any
    headroom: Any
    unseen: float
    """Requests that all gateways send before any of them sees the effect."""


def views(columns: Columns, request: Request, now: float) -> list[View]:
    z, z_first = columns.calibration.quantiles(request.probability, request.tenant)
    whole, cost = columns.at(request, request.output_tokens, z)
    first, _ = columns.at(request, 0.0, z_first)
    return [
        View(
            node=node,
            request=request,
            now=now,
            accepts=bool(columns.accepts[i]),
            quality=columns.quality[i],
            wait=columns.wait[i],
            whole=whole[i],
            first=first[i],
            pace=columns.output[i],
            error=columns.error[i],
            cost=cost[i],
            z=z,
            congestion=columns.congestion[i],
            headroom=columns.headroom[i],
            unseen=columns.unseen,
        )
        for i, node in enumerate(columns.nodes)
    ]


Filter = Callable[[View], bool]
Scorer = Callable[[View], Any]
Picker = Callable[[list[tuple[Any, View]], random.Random], View]


def accepting(view: View) -> bool:
    return view.accepts


def good_enough(view: View) -> bool:
    return bool(view.quality >= view.request.quality)


def selected(view: View) -> bool:
    return allows(view.request.selection, view.node)


def affordable(view: View) -> bool:
    return bool(view.cost <= view.request.max_cost)


def punctual(view: View) -> bool:
    """Every deadline is met with the request's probability; without any, the queue is bearable."""
    request, z = view.request, view.z
    if request.patient:
        return bool(view.wait <= request.patience)
    if view.whole > request.deadline - view.now:
        return False
    if request.first_token_deadline < INFINITE:
        budget = request.first_token_deadline - view.now
        if view.first > budget:
            return False
    return bool(view.pace * (1.0 + z * view.error) <= request.token_interval)


def price(view: View) -> Any:
    return view.cost * view.congestion


def one_with_room(scored: list[tuple[Any, View]], rng: random.Random) -> View:
    """One of the shortest cheapest prefix that holds the tier and has room for what is unseen, at random by room."""
    limit = np.float32(float(min(score for score, _ in scored)) * TIER)
    tier = [view for score, view in scored if score <= limit]
    need = SPREAD * scored[0][1].unseen
    if len(tier) == 1 and tier[0].headroom >= need:
        return tier[0]
    prefix = tier
    if _room(tier)[-1] < need and len(tier) < min(len(scored), LONGEST):
        cheapest_first = [view for _, view in sorted(scored, key=lambda pair: pair[0])[:LONGEST]]
        prefix = cheapest_first[: len(tier)]
        while _room(prefix)[-1] < need and len(prefix) < len(cheapest_first):
            prefix = cheapest_first[: len(prefix) + 1]
    room = _room(prefix)
    drawn = rng.random() * room[-1]
    return next((view for view, up_to in zip(prefix, room, strict=True) if up_to > drawn), prefix[-1])


def _room(views: list[View]) -> list[float]:
    """The room up to and including each."""
    return list(itertools.accumulate(float(view.headroom) for view in views))


@dataclass(frozen=True)
class Pipeline:
    """Filters, then one scorer, then one picker."""

    filters: tuple[Filter, ...]
    scorer: Scorer
    picker: Picker

    def pick(
        self, columns: Columns, request: Request, now: float, rng: random.Random, avoid: Collection[str] = ()
    ) -> Node | None:
        fresh = [view for view in views(columns, request, now) if view.node.worker.id not in avoid]
        fit = [view for view in fresh if all(accepts(view) for accepts in self.filters)]
        if not fit:
            return None
        return self.picker([(self.scorer(view), view) for view in fit], rng).node


CHEAPEST_IN_DEADLINE = Pipeline(
    filters=(accepting, good_enough, selected, affordable, punctual), scorer=price, picker=one_with_room
)
