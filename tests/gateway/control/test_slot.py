"""What one process answers is plain data, fit for a socket between processes."""

from __future__ import annotations

import json

from gateway.app import Gateway
from gateway.config import GatewayConfig
from policies.request import Shed


async def test_every_answer_is_json(gateway: Gateway) -> None:
    slot = gateway.slot
    body = b'{"model": "digits", "messages": [{"role": "user", "content": "x"}]}'
    explained = slot.explain("", [], body, "127.0.0.1")
    assert not isinstance(explained, Shed)
    ready, state = slot.readiness()
    answers = [slot.health(), ready, state, slot.nodes(None), slot.steer("127.0.0.1", None), explained, slot.recent(5)]
    assert json.dumps(json.loads(json.dumps(answers))) == json.dumps(answers)
    assert slot.metrics().startswith(b"# HELP isochrone_")


async def test_explaining_reserves_nothing(gateway: Gateway) -> None:
    body = b'{"model": "digits", "messages": [{"role": "user", "content": "x"}]}'
    for _ in range(3):
        gateway.slot.explain("", [], body, "127.0.0.1")
    assert gateway.plane.router.open == 0
    assert all(state.in_flight == 0 for state in gateway.fleet.workers.values())


async def test_without_any_registry_a_gateway_is_ready() -> None:
    ready, state = Gateway(GatewayConfig()).slot.readiness()
    assert ready
    assert state["registry"] == "none"


async def test_nobody_is_explained_who_is_not_remembered(gateway: Gateway) -> None:
    refused = gateway.slot.explained("nobody")
    assert isinstance(refused, Shed)
    assert refused.param == "request_id"
