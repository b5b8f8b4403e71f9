"""Why a request would go where it would go: every candidate with its parts, and what the alternatives would mean.

Computed from the same columns and the same `Router.consider` that decide; nothing is reserved. Seconds and US
dollars throughout.
"""

from __future__ import annotations

import msgspec
import numpy as np

from policies.balancers.cheapest_in_deadline import TIER
from policies.columns import Candidates, allows, in_regions
from policies.estimate import Z, probability
from policies.health import State
from policies.node import Node
from policies.request import INFINITE, Request, Shed
from policies.router import Choice, Router


class Candidate(msgspec.Struct, frozen=True):
    """One node as this request sees it."""

    node: str
    worker: str
    region: str
    variant: str
    quality: float
    accelerator: str
    state: str
    network_s: float
    wait_s: float
    prefill_s: float
    decode_s: float
    mean_s: float
    spread_s: float
    quantile_s: float
    """The time it is predicted to hold with the request's probability: mean + z(p) * spread."""
    cost_usd: float
    probability: float | None
    """P(in time); None without a deadline."""
    verdict: str
    """`chosen`, `tier`, `feasible`, or why it is out."""


class Alternative(msgspec.Struct, frozen=True):
    """What another choice would have cost and taken, beside the chosen one's."""

    node: str
    cost_usd: float
    mean_s: float
    extra_cost_usd: float
    extra_s: float


class Explanation(msgspec.Struct, frozen=True):
    """The whole decision, as `POST /admin/explain` returns it."""

    model: str
    policy: str
    budget_s: float | None
    first_token_budget_s: float | None
    probability: float
    decision: str
    """`feasible`, `degraded`, `best_effort`, or the reason of a refusal."""
    chosen: str | None
    candidates: tuple[Candidate, ...]
    """Cheapest first."""
    fastest: Alternative | None
    next_cheapest: Alternative | None
    without_deadline: Alternative | None
    detail: str = ""


def explain(router: Router, request: Request, now: float) -> Explanation:
    """Explain the decision a request would get now."""
    router.fleet.refresh(request.model, now)
    columns = router.fleet.columns(request.model)
    choice = router.consider(request, now)
    chosen = choice.slot if isinstance(choice, Choice) else None
    candidates: tuple[Candidate, ...] = ()
    view = None
    if columns is not None:
        view = choice.candidates if isinstance(choice, Choice) else _view(router, request, now)
        rows = [_candidate(view, slot, chosen, now) for slot in range(len(columns.nodes))]
        candidates = tuple(sorted(rows, key=lambda row: (row.cost_usd, row.mean_s)))
    relaxed = msgspec.structs.replace(
        request, deadline=INFINITE, first_token_deadline=INFINITE, token_interval=INFINITE
    )
    free = router.consider(relaxed, now)
    return Explanation(
        model=request.model,
        policy=request.policy,
        budget_s=_finite(request.deadline - now),
        first_token_budget_s=_finite(request.first_token_deadline - now),
        probability=request.probability,
        decision=choice.reason.label if isinstance(choice, Shed) else choice.status.value,
        chosen=None if isinstance(choice, Shed) else choice.node.id,
        candidates=candidates,
        fastest=_alternative(view, chosen, _argmin(view, "total", "eligible")),
        next_cheapest=_alternative(view, chosen, _argmin(view, "cost", "fit", chosen)),
        without_deadline=_alternative(view, chosen, free.slot if isinstance(free, Choice) else None),
        detail=choice.detail if isinstance(choice, Shed) else "",
    )


def _view(router: Router, request: Request, now: float) -> Candidates:
    columns = router.fleet.columns(request.model)
    assert columns is not None
    eligible = columns.eligible(request, request.min_quality, (), router.fleet.health.panic_share)
    return columns.candidates(request, eligible, now)


def _candidate(view: Candidates, slot: int, chosen: int | None, now: float) -> Candidate:
    request, node = view.request, view.columns.nodes[slot]
    eta = node.eta(request, now)
    budget = request.deadline - now
    return Candidate(
        node=node.id,
        worker=node.worker.id,
        region=node.region,
        variant=node.endpoint.variant,
        quality=node.endpoint.quality,
        accelerator=node.worker.accelerator,
        state=node.state.health.state.value,
        network_s=eta.network,
        wait_s=eta.wait,
        prefill_s=eta.prefill,
        decode_s=eta.decode,
        mean_s=eta.total,
        spread_s=eta.spread,
        quantile_s=eta.total + Z[request.probability] * eta.spread,
        cost_usd=float(view.cost[slot]),
        probability=probability(budget - eta.total, eta.spread) if budget < INFINITE else None,
        verdict=_verdict(view, slot, chosen, now),
    )


def _verdict(view: Candidates, slot: int, chosen: int | None, now: float) -> str:
    node, request = view.columns.nodes[slot], view.request
    if slot == chosen:
        return "chosen"
    if view.fit[slot]:
        cheapest = view.cost[view.fit].min()
        return "tier" if view.cost[slot] <= cheapest * TIER else "feasible, dearer"
    if view.eligible[slot]:
        return _late(view, slot, now)
    return _excluded(node, request, now)


def _late(view: Candidates, slot: int, now: float) -> str:
    request = view.request
    if request.patient:
        return f"queue longer than {request.patience:g} s"
    over: float = float(view.total[slot] + Z[request.probability] * view.spread[slot]) - (request.deadline - now)
    if over > 0:
        return f"too late by {over * 1e3:.0f} ms at {request.probability:.0%}"
    return "first token or token pace too slow"


def _excluded(node: Node, request: Request, now: float) -> str:
    health = node.state.health
    if not in_regions(request.selection, node.region):
        return "region not allowed"
    if not allows(request.selection, node):
        return "excluded by provider"
    if node.endpoint.quality < request.quality:
        return f"quality below {request.quality:g}"
    if health.state is not State.SERVING:
        return str(health.state.value)
    if not node.accepts(now):
        return "resting after a refusal" if now < health.rests_until else "starting slowly"
    return "above the price cap"


def _argmin(view: Candidates | None, what: str, mask: str, besides: int | None = None) -> int | None:
    if view is None:
        return None
    slots = [int(slot) for slot in np.flatnonzero(getattr(view, mask)) if slot != besides]
    return min(slots, key=lambda slot: float(getattr(view, what)[slot])) if slots else None


def _alternative(view: Candidates | None, chosen: int | None, other: int | None) -> Alternative | None:
    if view is None or other is None:
        return None
    cost, mean = float(view.cost[other]), float(view.total[other])
    base = other if chosen is None else chosen
    return Alternative(
        node=view.columns.nodes[other].id,
        cost_usd=cost,
        mean_s=mean,
        extra_cost_usd=cost - float(view.cost[base]),
        extra_s=mean - float(view.total[base]),
    )


def _finite(seconds: float) -> float | None:
    return seconds if seconds < INFINITE else None
