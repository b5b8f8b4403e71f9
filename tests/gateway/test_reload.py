"""A changed file is put in force whole, or refused while the old one stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from gateway import config as configuration
from gateway.config import GatewayConfig
from gateway.reload import RELOADABLE, Reload

BASE = "id: gw1\nregion: eu-west\n"


class Bench:
    """A reload over a file, and what it did."""

    def __init__(self, path: Path, text: str = BASE) -> None:
        self.path = path
        path.write_text(text)
        self.counts: Counter[str] = Counter()
        self.swapped: list[GatewayConfig] = []
        self.fault: Exception | None = None
        self.reload = Reload(
            path, configuration.load(path), lambda config: config, self._build,
            lambda config, built: self.swapped.append(built), self._count, wall=lambda: 7.0,
        )  # fmt: skip

    def _build(self, config: GatewayConfig) -> GatewayConfig:
        if self.fault is not None:
            raise self.fault
        return config

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def write(self, text: str) -> None:
        self.path.write_text(text)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "gateway.yaml")


async def test_an_unchanged_file_is_not_read_again(bench: Bench) -> None:
    await bench.reload.look()
    assert bench.swapped == []
    assert bench.reload.generation.number == 1
    assert len(bench.reload.generation.hash) == 16


async def test_a_changed_file_is_in_force_at_the_next_look(bench: Bench) -> None:
    before = bench.reload.generation.hash
    bench.write(BASE + "decision_headers: always\nroutes:\n  - match: {model: 'a-*'}\n    policy: nearest\n")
    await bench.reload.look()
    assert [config.decision_headers for config in bench.swapped] == ["always"]
    generation = bench.reload.generation
    assert (generation.number, generation.refused) == (2, "")
    assert generation.hash != before
    assert bench.counts == {"config.applied": 1}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nonsense: 1\n", "$.nonsense"),
        ("routes:\n  - match: {model: 'a-*'}\n    policy: magic\n", "$.routes[0].policy"),
        ("decision_headers: perhaps\n", "$.decision_headers"),
        ("routes: [\n", ""),
    ],
)
async def test_a_bad_file_is_refused_with_the_path_of_the_field(
    bench: Bench, text: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = bench.reload.generation
    bench.write(BASE + text)
    await bench.reload.look()
    assert bench.swapped == []
    generation = bench.reload.generation
    assert (generation.number, generation.hash) == (before.number, before.hash)
    assert path in generation.refused
    assert str(bench.path) in generation.refused
    assert bench.counts == {"config.refused": 1}
    assert caplog.records[-1].__dict__["field"] == path
    await bench.reload.look()  # once per change, not once per look
    assert bench.counts == {"config.refused": 1}
    bench.write(BASE)
    await bench.reload.look()
    assert bench.reload.generation.refused == ""


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("listen: {port: 9999}\n", "$.listen"),
        ("control: {port: 9999}\n", "$.control"),
        ("redis: redis://127.0.0.1:7777\n", "$.redis"),
        ("snapshot: /var/lib/fleet\n", "$.snapshot"),
        ("upstream: {idle_s: 5}\n", "$.upstream"),
    ],
)
async def test_what_needs_a_restart_says_so(bench: Bench, text: str, field: str) -> None:
    bench.write(BASE + text)
    await bench.reload.look()
    assert bench.swapped == []
    assert f"{field}: changing it needs a restart" in bench.reload.generation.refused


async def test_a_vanished_file_is_refused_and_its_return_is_seen(bench: Bench) -> None:
    bench.path.unlink()
    await bench.reload.look()
    assert "cannot be read" in bench.reload.generation.refused
    bench.write(BASE + "decision_headers: never\n")
    await bench.reload.look()
    assert bench.swapped[-1].decision_headers == "never"


async def test_a_fault_while_building_is_a_refusal(bench: Bench) -> None:
    bench.fault = RuntimeError("a bug")
    bench.write(BASE + "decision_headers: never\n")
    assert not await bench.reload.reload()
    assert bench.swapped == []
    assert "a bug" in bench.reload.generation.refused


async def test_without_a_file_there_is_nothing_to_reload() -> None:
    reload: Reload[GatewayConfig] = Reload(
        None, GatewayConfig(), lambda config: config, lambda config: config, lambda config, built: None, print
    )
    await reload.look()
    assert not await reload.reload()
    assert reload.generation.hash == ""


async def test_a_hundred_reloads_in_a_row(bench: Bench) -> None:
    for index in range(100):
        bench.write(BASE + f"limits: {{connections: {index + 1}}}\n")
        assert await bench.reload.reload()
    assert bench.reload.generation.number == 101
    assert bench.swapped[-1].limits.connections == 100
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_every_reloadable_field_exists() -> None:
    assert set(GatewayConfig.__struct_fields__) >= RELOADABLE
