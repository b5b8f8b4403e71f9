"""GET /v1/models: which models the fleet serves now, with the variants of each and their measured quality.

Says where a model runs by region only; addresses never leave the gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from policies.reason import Reason
from policies.request import Shed

if TYPE_CHECKING:
    from policies.fleet import Fleet
    from policies.node import Node

OWNER = "isochrone"


def listing(fleet: Fleet) -> bytes:
    """The JSON body of the list."""
    data = [_card(model, fleet.nodes(model)) for model in sorted(fleet.models())]
    return orjson.dumps({"object": "list", "data": data})


def card(model: str, fleet: Fleet) -> bytes | Shed:
    """The JSON body of GET /v1/models/MODEL."""
    nodes = fleet.nodes(model)
    return orjson.dumps(_card(model, nodes)) if nodes else Shed(Reason.MODEL_NOT_FOUND, param="model")


def _card(model: str, nodes: list[Node]) -> dict[str, object]:
    return {
        "id": model,
        "object": "model",
        # Workers number their records by wall-clock milliseconds (records.py): the oldest is the model's age here.
        "created": min((node.worker.seq for node in nodes), default=0) // 1000,
        "owned_by": OWNER,
        "task": nodes[0].endpoint.task if nodes else "",
        "variants": _variants(nodes),
    }


def _variants(nodes: list[Node]) -> list[dict[str, object]]:
    """Best first. Nodes may have measured one variant differently: the worst figure is the one that can be promised."""
    by_name: dict[str, list[Node]] = {}
    for node in nodes:
        by_name.setdefault(node.endpoint.variant, []).append(node)
    rows: list[tuple[float, dict[str, object]]] = []
    for name, group in sorted(by_name.items()):
        quality = min(node.endpoint.quality for node in group)
        agreements = [node.endpoint.agreement for node in group if node.endpoint.agreement is not None]
        row = {
            "variant": name,
            "quality": quality,
            "agreement": min(agreements, default=None),
            "regions": sorted({node.worker.region for node in group}),
            "nodes": len(group),
        }
        rows.append((quality, row))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
