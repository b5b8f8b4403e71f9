import random
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests.simulator.baselines.clairvoyant import Clairvoyant, Coming
from loadtests.simulator.contender import Setting
from loadtests.simulator.machine import Service
from loadtests.simulator.world import Profile, Serving
from tests.fleets import worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena
from tests.loadtests.simulator.worlds import world

PROFILE = Profile(
    accelerator="a", model="chat", variant="fp32", prefill_tokens_per_s=10_000, overhead_s=0.01, decode_s=0.01, slots=8
)
WAYS = {"home": 0.001, "far": 0.2}


class Truth:
    """Workers as they are."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self.edges: list[Any] = []

    def one_way(self, gateway: str, region: str) -> float:
        return WAYS[region]

    def add(self, name: str, wait: float = 0.0, slow: float = 1.0) -> None:
        self.workers[name] = SimpleNamespace(
            id=name, disturbed=False, running=0, slots=8, slowed=1.0, slow=SimpleNamespace(factor=lambda now: slow),
            wait=lambda now: wait, services={("chat", "fp32"): Service(PROFILE)},
        )  # fmt: skip


def stage(congestion: bool = True, noise: float = 0.0, **workers: dict[str, Any]) -> tuple[Arena, Truth]:
    """Workers by name: price, region, and their true wait and slowness."""
    truth, records = Truth(), []
    for name, fields in workers.items():
        records.append(
            worker(
                name, usd_per_hour=fields.get("usd", 1.0), region=fields.get("region", "home"), endpoints=(ENDPOINT,)
            )
        )
        truth.add(name, fields.get("wait", 0.0), fields.get("slow", 1.0))
    setting = Setting(world(serving=Serving(noise=noise)), "home", 1, random.Random(1), truth)
    arena = Arena(Clairvoyant(setting, congestion=congestion), *records)
    truth.edges.append(SimpleNamespace(contender=arena.router))
    return arena, truth


def test_it_sees_through_stale_reports():
    arena, _ = stage(busy={"wait": 3.0}, free={"usd": 5.0})
    arena.loaded("free", waiting=50, running=8, backlog=60.0)
    assert arena.send(first_token_deadline=0.5).node.worker.id == "free"


def test_the_cheapest_in_time_by_the_true_wait():
    arena, _ = stage(congestion=False, cheap={"wait": 0.3}, dear={"usd": 5.0})
    assert arena.send(first_token_deadline=0.42).node.worker.id == "cheap"
    assert arena.send(first_token_deadline=0.40).node.worker.id == "dear"


def test_congestion_has_its_price():
    fields = {"cheap": {"wait": 0.3}, "dear": {"usd": 3.0}}
    assert stage(congestion=False, **fields)[0].send(first_token_deadline=9.0).node.worker.id == "cheap"
    assert stage(congestion=True, **fields)[0].send(first_token_deadline=9.0).node.worker.id == "dear"


def test_what_is_on_its_way_counts_as_if_it_were_there():
    arena, _ = stage(congestion=False, cheap={}, dear={"usd": 5.0})
    assert [arena.send(first_token_deadline=0.3).node.worker.id for _ in range(4)] == ["cheap", "cheap", "dear", "dear"]


def test_slow_and_broken_nodes_are_known_for_what_they_are():
    arena, truth = stage(slow={"slow": 4.0}, fast={"usd": 5.0})
    assert arena.send(first_token_deadline=0.3).node.worker.id == "fast"
    truth.workers["fast"].disturbed = True
    assert arena.send(first_token_deadline=0.3).node.worker.id == "slow"


def test_distance_counts_both_ways_and_the_queue_shortens_meanwhile():
    arena, _ = stage(congestion=False, far={"region": "far", "wait": 0.2}, here={"usd": 5.0})
    assert arena.send(first_token_deadline=0.52).node.worker.id == "far"
    assert arena.send(first_token_deadline=0.5).node.worker.id == "here"


def test_a_margin_is_kept_for_what_nobody_knows():
    arena, _ = stage(noise=0.1, congestion=False, cheap={"wait": 0.3}, dear={"usd": 5.0})
    assert arena.send(first_token_deadline=0.42).node.worker.id == "dear"


def test_deadlines_of_the_whole_answer_count():
    arena, _ = stage(congestion=False, cheap={"wait": 0.5}, dear={"usd": 5.0})
    assert arena.send(deadline=1.8).node.worker.id == "cheap"
    assert arena.send(deadline=1.2).node.worker.id == "dear"


def test_work_leaves_the_book_on_arrival():
    coming = Coming()
    coming.add("a", 1.0, 0.5)
    coming.add("a", 2.0, 0.25)
    assert [coming.seconds("a", now) for now in (0.5, 1.5, 2.0)] == pytest.approx([0.75, 0.25, 0.0])
    assert coming.seconds("b", 0.0) == 0.0
