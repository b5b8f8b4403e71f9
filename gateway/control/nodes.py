"""The fleet as operators read it: rows of `/admin/nodes`, and where a client would be steered.

Figures are those the router decides with, in the units people read (milliseconds, US dollars).
"""

from __future__ import annotations

import math
from typing import Any

from gateway.place import Place
from gateway.steer import Steering
from policies.cost import SECONDS_PER_HOUR
from policies.fleet import Fleet
from policies.node import Node
from policies.records import ReservedPrice, TokenPrice
from policies.signals import Signals


def rows(fleet: Fleet, now: float, model: str | None = None) -> list[dict[str, Any]]:
    """One row per node, by region, worker and endpoint; nodes of one worker share its load."""
    nodes = sorted(fleet.nodes(model), key=lambda node: (node.region, node.id))
    return [_row(node, now) for node in nodes]


def _row(node: Node, now: float) -> dict[str, Any]:
    worker, endpoint, state = node.worker, node.endpoint, node.state
    load, rtt, price = state.load, state.rtt, worker.price
    return {
        "node": node.id,
        "worker": worker.id,
        "model": endpoint.model,
        "variant": endpoint.variant,
        "quality": endpoint.quality,
        "region": worker.region,
        "zone": worker.zone,
        "cloud": worker.cloud,
        "address": worker.address,
        "grpc_address": worker.grpc_address,
        "accelerator": worker.accelerator,
        "engine": worker.engine,
        "state": state.health.state.value,
        "drained": state.drained_by_operator,
        "accepts": node.accepts(now),
        "cost_mode": price.__struct_config__.tag,
        "price": None if isinstance(price, TokenPrice) else price.usd_per_hour,
        "worth": round(node.worth, 3) if isinstance(price, ReservedPrice) else None,
        "price_in": price.input_usd_per_mtok if isinstance(price, TokenPrice) else None,
        "price_out": price.output_usd_per_mtok if isinstance(price, TokenPrice) else None,
        "egress_gb": worker.egress_usd_per_gb,
        "power_watts": worker.power_watts or None,
        "extra_usd_per_hour": round(node.extra * SECONDS_PER_HOUR, 6),
        "rtt_ms": round(rtt.mean * 1e3, 3) if rtt.samples else None,
        "jitter_ms": round(rtt.jitter * 1e3, 3) if rtt.samples else None,
        "wait_ms": round(state.wait(now) * 1e3, 3),
        "waiting": load.waiting if load else None,
        "running": load.running if load else None,
        "load_age_ms": round((now - state.load_at) * 1e3, 1) if load else None,
        "in_flight": state.in_flight,
    }


def signals(found: Signals, region: str, model: str | None = None) -> dict[str, Any]:
    """The scaling signals (docs/signals.md), and under `infeasible` what came in at this gateway that nobody could
    serve in time, counted since it started. A runway without end is null."""
    rows = [row for row in found.rows() if model in (None, row.model)]
    return {
        "signals": [
            {
                "model": row.model,
                "region": row.region,
                "nodes": row.nodes,
                "busy_nodes": round(row.busy, 3),
                "shadow_price_ratio": round(row.shadow_price, 4),
                "runway_s": round(row.runway_s, 1) if math.isfinite(row.runway_s) else None,
                "idle_dear_share": round(row.idle_dear_share, 4),
            }
            for row in rows
        ],
        "infeasible": [
            {
                "model": name,
                "region": region,
                "cause": cause,
                "requests": one.requests,
                "accelerator_seconds": round(one.seconds, 3),
            }
            for (name, cause), one in sorted(found.unmet.items())
            if model in (None, name)
        ],
    }


def steer(steering: Steering, address: str, place: Place) -> dict[str, Any]:
    """The gateways for a client at an address, the nearest first."""
    return {
        "ip": address,
        "country": place.country,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "gateways": [
            {
                "region": near.region,
                "url": near.url,
                "distance_km": None if near.kilometres is None else round(near.kilometres, 1),
            }
            for near in steering.nearest(place)
        ],
    }
