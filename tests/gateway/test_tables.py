"""What a person reads."""

from __future__ import annotations

import io
from typing import Any

import msgspec
from rich.console import Console, RenderableType

from gateway import tables
from policies.config import PolicyConfig
from policies.explain import explain
from policies.records import MarginalPrice
from policies.request import Infeasible, LoadSeen
from tests import fleets


def text(shown: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(shown)
    return stream.getvalue()


def told(**wishes: Any) -> dict[str, Any]:
    """The explanation for a fleet with a near dear node and a far cheap one."""
    router = fleets.router(
        fleets.worker("near", price=MarginalPrice(4.0)),
        fleets.worker("far", price=MarginalPrice(1.0)),
        rtt={"near": 0.001, "far": 0.09},
        house=PolicyConfig(),
    )
    explanation = msgspec.to_builtins(explain(router, fleets.request(**wishes), 0.0))
    assert isinstance(explanation, dict)
    return explanation


def test_a_tight_deadline_is_explained_with_every_candidate() -> None:
    shown = text(tables.explained(told(deadline=0.05)))
    assert "chat, in 50 ms, 95% surely, under house: goes to near/chat:fp32 (predicted in time)" in shown
    assert '"in time": the chance to be complete in 50 ms; from 95% on a node counts as in time now.' in shown
    assert "The cheapest that will do is chosen." in shown
    assert "too late by" in shown
    assert "in time" in shown
    assert "The fastest node is the one chosen." in shown
    assert "Without a deadline it would go to far/chat:fp32: $" in shown
    assert "a million less and" in shown


def test_the_bar_moved_by_promises_kept_is_said() -> None:
    loose = text(tables.explained(told(deadline=0.05) | {"bar": 0.88}))
    assert "from 88% on a node counts as in time now." in loose
    assert "(95% are promised; promises were kept better than that of late, so less is asked now.)" in loose
    assert "worse than that of late, so more is asked now.)" in text(
        tables.explained(told(deadline=0.05) | {"bar": 0.99})
    )


def test_a_patient_request_shows_the_time_it_will_hold() -> None:
    shown = text(tables.explained(told()))
    assert "chat, no deadline, under house: goes to far/chat:fp32 (any time)" in shown
    assert "Without a deadline" not in shown
    assert "95% within" in shown
    assert "The fastest node is near/chat:fp32: $" in shown
    assert "a million more and" in shown
    assert "faster" in shown


def test_a_refusal_says_why() -> None:
    shown = text(tables.explained(told(model="other")))
    assert "refused, model_not_found" in shown
    shown = text(tables.explained(told(quality=1.5, min_quality=1.5)))
    assert "quality_floor: The best variant has quality 1." in shown


def test_what_would_be_held_is_not_called_refused() -> None:
    router = fleets.router(fleets.worker("w"), house=PolicyConfig())
    router.observe(LoadSeen(fleets.load("w", 2, waiting=500, running=1, backlog=5.0), 0.0), 0.0)
    asked = fleets.request(deadline=2.0, when_infeasible=(Infeasible.HOLD,))
    held = msgspec.to_builtins(explain(router, asked, 0.0))
    assert "held here for 19" in tables.heading(held)
    assert tables.heading(held).endswith("at most, until a node has room; 0 wait")
    assert "too late by" in text(tables.explained(held))


def test_the_bills_are_told_apart() -> None:
    shown = text(tables.explained(told(deadline=0.05)))
    assert "It adds $11.11 a million to the bill; the model's workers cost $5.00 an hour, used or not." in shown
    paid = told(deadline=0.05)
    for row in paid["candidates"]:
        row["cost_mode"] = "reserved"
    assert "(reserved: its hours are paid; what it is weighed by is what others lose)" in text(tables.explained(paid))
    refused = told(quality=1.5, min_quality=1.5)
    assert tables.bills(refused) == "The model's workers cost $5.00 an hour, used or not."


def test_a_shadow_is_shown_when_asked_for() -> None:
    explanation = told(deadline=0.05)
    assert "shadow" not in text(tables.explained(explanation))
    assert "This route has no shadow" in text(tables.explained(explanation, shadow=True))
    other = {
        "policy": "p2c", "decision": "best_effort", "node": "far/chat:fp32", "cost_usd": 3e-6, "mean_s": 0.1,
        "probability": 0.25, "agrees": False,
    }  # fmt: skip
    told_of = explanation | {"shadow": other}
    assert tables.beside(told_of) == (
        "Its shadow p2c would send it to far/chat:fp32 (best effort): $3.00 a million and 100.0 ms, "
        "25.0% surely in time."
    )
    assert tables.beside(told_of | {"shadow": other | {"agrees": True}}).endswith("would send it there too.")
    refused = other | {"node": None, "decision": "deadline_infeasible"}
    assert tables.beside(told_of | {"shadow": refused}).endswith("would not send it: deadline_infeasible.")


NODE = {
    "node": "a/m:v", "model": "m", "region": "eu", "state": "serving", "quality": 1.0, "price": 2.5, "price_in": None,
    "price_out": None, "rtt_ms": None, "wait_ms": 0.0, "waiting": None, "running": 3, "in_flight": 1,
}  # fmt: skip


def test_nodes() -> None:
    shown = text(tables.nodes({"nodes": [NODE, {**NODE, "price": None, "price_in": 3.0, "price_out": 15.0}]}))
    assert "$2.50/h" in shown
    assert "$3+$15/Mtok" in shown
    assert " - " in shown
    assert text(tables.nodes({"nodes": []})) == "No nodes are known.\n"


def test_nodes_say_what_they_speak_where_some_speak_more_than_http() -> None:
    assert "speaks" not in text(tables.nodes({"nodes": [NODE]}))
    shown = text(tables.nodes({"nodes": [NODE | {"grpc_address": None}, NODE | {"grpc_address": "h:1"}]}))
    assert shown.count("HTTP") == 2
    assert shown.count("HTTP, gRPC") == 1


def test_reserved_hours_are_marked() -> None:
    assert "$2.50/h paid" in text(tables.nodes({"nodes": [NODE | {"cost_mode": "reserved"}]}))


def test_signals() -> None:
    row = {
        "model": "m", "region": "eu", "nodes": 3, "busy_nodes": 1.25, "shadow_price_ratio": 2.5, "runway_s": 61.2,
        "idle_dear_share": 0.4,
    }  # fmt: skip
    missed = {"model": "m", "region": "us", "cause": "queue", "requests": 7, "accelerator_seconds": 3.25}
    endless = row | {"region": "us", "runway_s": None}
    shown = text(tables.signals({"signals": [row, endless], "infeasible": [missed]}))
    for told_of in ("1.25", "2.50x", "61 s", "40%", " - "):
        assert told_of in shown
    assert "m: 7 requests came in at us that nobody could serve in time (queue): 3.2 accelerator seconds" in shown
    assert text(tables.signals({"signals": [], "infeasible": []})) == "No nodes are known.\n"


ATTEMPT = {
    "attempt": 1, "node": "a/m:v", "region": "eu", "variant": "v", "promise": "best_effort", "outcome": "ok",
    "predicted": {"network_ms": 1.0, "queue_ms": 2.0, "prefill_ms": 3.0, "decode_ms": 4.0, "total_ms": 10.0,
                  "spread_ms": 1.0, "cost_usd": 0.002},
    "actual": {"network_ms": None, "queue_ms": 2.5, "prefill_ms": 3.0, "decode_ms": 4.0, "total_ms": 12.0,
               "first_byte_ms": 6.0, "accelerator_ms": 7.0, "cost_usd": 0.003},
}  # fmt: skip


def test_a_decided_request() -> None:
    decision = {
        "request_id": "r1", "at": "2026-01-01T00:00:00.000+00:00", "status": 200, "model": "m", "policy": "house",
        "deadline_ms": 11.0, "took_ms": 12.5, "in_deadline": False, "attempts": [ATTEMPT],
    }  # fmt: skip
    shown = text(tables.decided(decision))
    assert "r1" in shown
    assert "took 12.5 ms of 11 ms: late" in shown
    assert "held" not in shown
    assert "late, held 3.0 ms of it" in text(tables.decided(decision | {"held_ms": 3.0}))
    assert "attempt 1 at a/m:v in eu, best effort: ok" in shown
    long = decision | {"attempts": [decision["attempts"][0] | {"node": "a" * 80, "outcome": "deadline_exceeded"}]}
    line = f"attempt 1 at {'a' * 80} in eu, best effort: deadline_exceeded"
    assert line in [row.strip() for row in text(tables.decided(long)).splitlines()], "on one line, wider than its table"
    assert "$2,000" in shown
    refused = {
        "request_id": "r", "at": "t", "status": 429, "attempts": [],
        "refused": {"code": "deadline_infeasible", "detail": "No node."},
    }  # fmt: skip
    assert "refused: deadline_infeasible: No node." in text(tables.decided(refused))


def test_an_attempt_under_way_has_no_actual_row() -> None:
    decision = {"request_id": "r", "at": "t", "status": 0, "attempts": [{**ATTEMPT, "actual": None}]}
    shown = text(tables.decided(decision))
    assert "predicted" in shown
    assert "actual" not in shown
