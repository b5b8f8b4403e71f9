"""Why a request would go where it would go: every candidate with its parts, and what the alternatives would mean.

Computed from the same columns and the same `Router.consider` that decide; nothing is reserved. Seconds and US
dollars throughout.
"""

from __future__ import annotations

import msgspec
import numpy as np

from policies.balancers.cheapest_in_deadline import TIER
from policies.candidates import Candidates
from policies.choice import Choice
from policies.columns import Columns, Floats
from policies.cost import bill, hourly
from policies.health import State
from policies.masks import Mask, allows, in_regions
from policies.request import INFINITE, Hold, Outcome, Request, Shed
from policies.router import Router


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
    """As it is weighed: of reserved capacity what its queue makes it worth, and with the route's energy and carbon."""
    cost_mode: str
    """`token`, `marginal` or `reserved`."""
    marginal_usd: float
    """What it would add to the bill."""
    probability: float | None
    """P(in time); None without a deadline."""
    verdict: str
    """`chosen`, how it compares to the chosen one, or why it is out: words for a person."""


class Alternative(msgspec.Struct, frozen=True):
    """What another choice would have cost and taken, beside the chosen one's."""

    node: str
    cost_usd: float
    mean_s: float
    extra_cost_usd: float
    extra_s: float


class Beside(msgspec.Struct, frozen=True):
    """What the route's shadow would do with the same request."""

    policy: str
    decision: str
    node: str | None
    cost_usd: float | None
    mean_s: float | None
    probability: float | None
    agrees: bool
    """Whether it is the same as what is done."""


class Explanation(msgspec.Struct, frozen=True):
    """The whole decision, as `POST /admin/explain` returns it."""

    model: str
    policy: str
    budget_s: float | None
    first_token_budget_s: float | None
    token_budget_s: float | None
    """Seconds granted per output token."""
    probability: float
    bar: float
    """The chance from which a node counts as in time now: the probability, moved by how promises were kept of late."""
    decision: str
    """`feasible`, `degraded`, `best_effort`, `hold`, or the reason of a refusal."""
    chosen: str | None
    candidates: tuple[Candidate, ...]
    """Cheapest first."""
    fastest: Alternative | None
    next_cheapest: Alternative | None
    """The cheapest in time of those dearer than the chosen one and its like."""
    without_deadline: Alternative | None
    """None for a request that has no deadline."""
    detail: str = ""
    fleet_usd_per_hour: float = 0.0
    """What the hours of the model's workers cost, whether they are used or not."""
    shadow: Beside | None = None
    """None for a route that has none."""
    hold_s: float | None = None
    """How long it would be held at most, if it would be."""
    waiting: int = 0
    """Requests of its policy and model that are held now."""


def explain(router: Router, request: Request, now: float) -> Explanation:
    """Explain the decision a request would get now."""
    router.fleet.refresh(request.model, now)
    columns = router.fleet.columns(request.model)
    choice = router.foresee(request, now)
    chosen = choice.slot if isinstance(choice, Choice) else None
    candidates: tuple[Candidate, ...] = ()
    view = None
    if columns is not None:
        view = choice.candidates if isinstance(choice, Choice) else _view(router, request, now)
        rows = [_candidate(view, slot, chosen, now) for slot in range(len(columns.nodes))]
        candidates = tuple(sorted(rows, key=lambda row: (row.cost_usd, row.mean_s)))
    return Explanation(
        model=request.model,
        policy=request.policy,
        budget_s=_finite(request.deadline - now),
        first_token_budget_s=_finite(request.first_token_deadline - now),
        token_budget_s=_finite(request.token_interval),
        probability=request.probability,
        bar=router.fleet.calibration.bar(request.probability, request.tenant),
        decision=_decision(choice),
        chosen=choice.node.id if isinstance(choice, Choice) else None,
        candidates=candidates,
        fastest=_alternative(view, chosen, _fastest(view)),
        next_cheapest=_alternative(view, chosen, _next_cheapest(view, chosen)),
        without_deadline=_alternative(view, chosen, _without_deadline(router, request, now)),
        detail=choice.detail if isinstance(choice, Shed) else "",
        fleet_usd_per_hour=_hourly(columns),
        shadow=_shadowed(router, request, now, None if not isinstance(choice, Choice) else choice.node.id),
        hold_s=_finite(choice.until - now) if isinstance(choice, Hold) else None,
        waiting=router.waiting.count(request),
    )


def _decision(choice: Choice | Hold | Shed) -> str:
    if isinstance(choice, Hold):
        return "hold"
    return choice.reason.label if isinstance(choice, Shed) else choice.status.value


def _hourly(columns: Columns | None) -> float:
    workers = {} if columns is None else {node.worker.id: node.worker for node in columns.nodes}
    return sum(hourly(worker) for worker in workers.values())


def _shadowed(router: Router, request: Request, now: float, chosen: str | None) -> Beside | None:
    shadow = router.shadow(request.model)
    if shadow is None:
        return None
    choice = shadow.consider(request, now)
    if not isinstance(choice, Choice):
        return Beside(shadow.name, _decision(choice), None, None, None, None, agrees=chosen is None)
    eta = choice.node.eta(request, now)
    return Beside(
        policy=shadow.name,
        decision=choice.status.value,
        node=choice.node.id,
        cost_usd=choice.candidates.cost.item(choice.slot),
        mean_s=eta.total,
        probability=None if _endless(request) else router.fleet.calibration.chance(request, eta, now),
        agrees=choice.node.id == chosen,
    )


def _view(router: Router, request: Request, now: float) -> Candidates:
    columns = router.fleet.columns(request.model)
    assert columns is not None
    eligible = columns.eligible(request, request.min_quality, (), router.fleet.health.panic_share)
    return Candidates(columns, request, eligible, now)


def _candidate(view: Candidates, slot: int, chosen: int | None, now: float) -> Candidate:
    request, node = view.request, view.columns.nodes[slot]
    eta = node.eta(request, now)
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
        quantile_s=eta.total + view.z * eta.spread,
        cost_usd=float(view.cost[slot]),
        cost_mode=str(node.worker.price.__struct_config__.tag),
        marginal_usd=bill(node, request, Outcome(reply_bytes=round(request.reply_bytes))),
        probability=None if _endless(request) else view.columns.calibration.chance(request, eta, now),
        verdict=_verdict(view, slot, chosen, now),
    )


def _endless(request: Request) -> bool:
    """Whether nothing has to be there by any time."""
    return request.deadline == request.first_token_deadline == INFINITE


def _verdict(view: Candidates, slot: int, chosen: int | None, now: float) -> str:
    if slot == chosen:
        return "chosen" if view.fit[slot] else f"chosen, although {_late(view, slot, now)}"
    if view.fit[slot]:
        return _beside(view, slot, chosen)
    return _late(view, slot, now) if view.eligible[slot] else _excluded(view, slot, now)


def _beside(view: Candidates, slot: int, chosen: int | None) -> str:
    """How one that is in time as well compares to the chosen one."""
    good = "queue short enough" if view.request.patient else "in time"
    if chosen is None:
        return good
    price, limit = float(view.price[slot]), _tier_limit(view)
    if not view.fit[chosen] or view.price[chosen] > limit:
        compared = "cheaper" if view.cost[slot] < view.cost[chosen] else "dearer"
        return f"{good} and {compared}; policy or request prefers another"
    if price > limit:
        dearer = view.cost[slot] > view.cost[chosen]
        return f"{good}, but dearer" if dearer else f"{good} and cheaper, but others wait there"
    passed_over = "not this session's" if view.request.affinity else "not drawn"
    return f"{good}, as cheap (within {TIER - 1:.0%}), {passed_over}"


def _tier_limit(view: Candidates) -> float:
    """Up to this price, its queue counted in, a node in time is as cheap as the cheapest of them."""
    return float(view.price[view.fit].min()) * TIER


def _late(view: Candidates, slot: int, now: float) -> str:
    """Which of its deadlines the request would miss there, and by how much."""
    request = view.request
    if request.patient:
        return f"too long a queue: {view.columns.wait[slot]:.0f} s, and {request.patience:g} s are waited at most"
    sure = f"at {request.probability:.0%}"
    whole, first, pace = (float(late[slot]) for late in view.lateness(now))
    if whole > 0:
        return f"too late by {whole * 1e3:.0f} ms {sure}"
    if first > 0:
        return f"first token too late by {first * 1e3:.0f} ms {sure}"
    granted = request.token_interval
    return f"too slow: {(granted + pace) * 1e3:.3g} ms a token {sure}, {granted * 1e3:.3g} ms are granted"


_OUT = {
    State.EJECTED: "ejected: it failed just now",
    State.PROBING: "probing: it failed lately and gets little",
    State.DRAINING: "draining: it gets nothing new",
    State.GONE: "gone from the registry",
}


def _excluded(view: Candidates, slot: int, now: float) -> str:
    node, request = view.columns.nodes[slot], view.request
    health = node.state.health
    if not in_regions(request.selection, node.region):
        return "region not allowed"
    if request.selection.grpc and node.worker.grpc_address is None:
        return "not reached over gRPC"
    if not allows(request.selection, node):
        return "excluded by the request's `provider`"
    if node.endpoint.quality < request.quality:
        return f"quality {node.endpoint.quality:.3g}, below the {request.quality:g} wanted"
    if health.state is not State.SERVING:
        return _OUT[health.state]
    if not node.accepts(now):
        return "resting: it refused a request just now" if now < health.rests_until else "slow start: enough for now"
    return "above the price cap"


def _fastest(view: Candidates | None) -> int | None:
    return None if view is None else _least(view.total, view.eligible)


def _next_cheapest(view: Candidates | None, chosen: int | None) -> int | None:
    """What would take the request if the chosen one and all as cheap were not there."""
    if view is None or chosen is None or not view.fit.any():
        return None
    limit = _tier_limit(view)
    return _least(view.cost, view.fit & (view.price > max(float(view.price[chosen]), limit)))


def _without_deadline(router: Router, request: Request, now: float) -> int | None:
    if request.patient:
        return None
    relaxed = msgspec.structs.replace(
        request, deadline=INFINITE, first_token_deadline=INFINITE, token_interval=INFINITE
    )
    free = router.consider(relaxed, now)
    return free.slot if isinstance(free, Choice) else None


def _least(values: Floats, mask: Mask) -> int | None:
    slots = np.flatnonzero(mask)
    return int(slots[np.argmin(values[slots])]) if len(slots) else None


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
