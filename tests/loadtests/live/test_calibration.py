"""Clients', gateways' and workers' words put together."""

from __future__ import annotations

import msgspec
import pytest

from gateway.app import Gateway
from gateway.config import GatewayConfig
from loadtests.live import calibration
from loadtests.live.calibration import Promise, diagram, figures, judge, read
from loadtests.report import Sent, screen
from loadtests.simulator import definitions
from policies.request import Eta, Outcome, Status
from tests.gateway.members import dispatch, request

WORLD = definitions.read("calibration").cases[0].world
HERDS = {"a": 0.7, "b": 1.2}
SENT = [
    Sent(number=0, kind="sure", ok=True, took=0.2, deadline=0.3),
    Sent(number=1, kind="sure", ok=True, took=0.4, deadline=0.3),
    Sent(number=2, kind="sure", ok=False, took=0.1),
]


async def page(*kept: bool) -> str:
    """A real gateway's metrics after so many attempts, each predicted at 0.96."""
    gateway = Gateway(GatewayConfig())
    asked = request(deadline=100.3)
    for one in kept:
        outcome = Outcome(total=0.1 if one else 0.5, queue=0.01, prefill=0.02, decode=0.03)
        sent = dispatch(asked, eta=Eta(network=0.05, wait=0.0, prefill=0.02, decode=0.03, spread=0.01))
        gateway.telemetry.settled(sent, outcome, 0.0)
        gateway.fleet.calibration.reliability.add(0.96, one)
    return gateway.telemetry.page().decode()


async def test_the_gateways_figures_are_added_up() -> None:
    proof = judge(WORLD, SENT, [await page(True, True), await page(False)], HERDS)
    (told,) = [one for one in proof.bins if one.count]
    assert (told.label, told.count, told.kept) == ("0.95-0.98", 3, pytest.approx(2 / 3))
    assert proof.calibration_error == pytest.approx(0.96 - 2 / 3)
    assert proof.promises == (
        Promise(status=Status.FEASIBLE.value, probability=0.95, sent=3, missed=pytest.approx(1 / 3)),
    )
    parts = {part.name: part for part in proof.parts}
    assert parts["network"].predicted == pytest.approx(0.05)
    assert parts["total"].actual == pytest.approx((0.1 + 0.1 + 0.5) / 3)
    assert (proof.answered, proof.in_deadline) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert proof.herd_index == 1.2


async def test_it_holds_when_probabilities_are_true_and_nobody_herds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST", 25)
    good = await page(*[True] * 24, False)  # 0.96
    assert judge(WORLD, SENT, [good], HERDS).passes
    assert not judge(WORLD, SENT, [good], HERDS | {"c": 1.6}).passes
    assert not judge(WORLD, SENT, [await page(*[True] * 20, *[False] * 5)], HERDS).passes
    monkeypatch.setattr(calibration, "LEAST", 26)
    assert not judge(WORLD, SENT, [good], HERDS).passes, "too few to say"


async def test_it_is_told_to_people_and_to_machines() -> None:
    proof = judge(WORLD, SENT, [await page(True)], HERDS)
    console = screen()
    with console.capture() as shown:
        console.print(diagram(proof))
    assert "0.95-0.98" in shown.get()
    assert "0.9-0.95" not in shown.get(), "nobody was there"
    assert any("herd index of the burst 1.20" in line for line in figures(proof))
    assert msgspec.json.decode(msgspec.json.encode(proof), type=calibration.Proof) == proof


def test_samples_of_several_pages_are_one() -> None:
    line = 'x_total{a="1"} 2\n'
    assert read([line, line])["x_total", frozenset({("a", "1")})] == 4


def test_the_world_has_what_the_proof_needs() -> None:
    assert len(WORLD.gateways) == 2
    assert WORLD.control.heartbeat_s == 1.0
    assert {kind.probability for kind in WORLD.demand.classes} == {0.90, 0.95, 0.98, 0.99}
    assert WORLD.load * WORLD.full_rate * WORLD.seconds > calibration.LEAST
