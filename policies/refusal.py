"""Why a request is left without a node: its own constraints first, then the fleet, then the clock."""

from __future__ import annotations

from policies import admission
from policies.candidates import Candidates
from policies.columns import Columns
from policies.masks import NO_GRPC, in_regions
from policies.reason import Reason
from policies.request import ANY, INFINITE, Infeasible, Request, Shed


def why_nobody(candidates: Candidates, now: float) -> Shed:
    """Name what left the request without a node: its own constraints first, then the fleet, then the clock."""
    columns, request = candidates.columns, candidates.request
    if candidates.eligible.any():
        if request.order and not request.allow_fallbacks:
            return Shed(Reason.NO_MATCHING_NODE, param="provider.order")
        if request.patient:
            wait = float(columns.wait[candidates.eligible].min())
            detail = "Every node has a longer queue than a request without a deadline is sent behind."
            return Shed(Reason.OVERLOADED, detail, None, admission.retry_after(wait - request.patience))
        return admission.infeasible(candidates, now)
    constraint = violated(columns, request)
    if constraint is not None:
        return constraint
    if columns.reachable.any():
        return Shed(Reason.NO_CAPACITY, retry_after=admission.MIN_RETRY_AFTER)
    return Shed(Reason.NO_CAPACITY, "Every node of this model is draining.", None, admission.MIN_RETRY_AFTER)


def violated(columns: Columns, request: Request) -> Shed | None:
    """Which of the request's own constraints no node of the model satisfies, health and load aside."""
    selection = request.selection
    if selection is not ANY:
        left = [node for node in columns.nodes if in_regions(selection, node.region)]
        if not left:
            return Shed(Reason.REGION_LOCKED, param="x-allow-regions")
        if selection.grpc and all(node.worker.grpc_address is None for node in left):
            return Shed(Reason.NO_MATCHING_NODE, NO_GRPC)
        if not columns.masks.selected(selection).any():
            return Shed(Reason.NO_MATCHING_NODE, param="provider")
    floor = request.min_quality if Infeasible.DEGRADE in request.when_infeasible else request.quality
    if not (columns.quality >= floor).any():
        best = max(node.endpoint.quality for node in columns.nodes)
        return Shed(Reason.QUALITY_FLOOR, f"The best variant has quality {best:g}.", "x-min-quality")
    prompt_cap, output_cap = selection.max_input_usd_per_mtok / 1e6, selection.max_output_usd_per_mtok / 1e6
    if not ((columns.usd_prompt <= prompt_cap) & (columns.usd_output <= output_cap)).any():
        return Shed(Reason.PRICE_CAP, param="provider.max_price")
    if request.max_cost < INFINITE:
        _, _, costs = columns.evaluate(request, request.output_tokens)
        if not (costs <= request.max_cost).any():
            return Shed(Reason.PRICE_CAP, f"The cheapest node costs ${costs.min():.3g}.", "x-max-cost-usd")
    return None
