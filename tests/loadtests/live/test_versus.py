"""What is said of two runs: made up where a part is off on purpose, simulated where chance alone differs."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from loadtests.live import trial, versus
from loadtests.live.trial import Observed, Parts, Seen
from loadtests.simulator import definitions

PART = Parts(0.1, 0.2, 0.3, 0.4, 0.0, 0.001, 0.2, 0.1)


def observed(*, shift=0.0, part=PART, met=90, group="eu", weather=0):
    seen = [
        Seen(0.3 + index / 1000 + shift + weather / 1e4, 1.0 + index / 1000 + shift, index < met, 1, 0.01, group)
        for index in range(100)
    ]
    return Observed(seen, [part._replace(queue=part.queue + weather / 1e4) for _ in range(100)])


SIMULATED = [observed(weather=weather) for weather in range(-2, 3)]


def lines(verdict):
    return {line.name: line for line in (*verdict.figures, *verdict.parts)}


def test_equal_runs_agree():
    verdict = versus.judge("w", SIMULATED, observed())
    assert verdict.agrees
    assert verdict.blame == ()
    assert lines(verdict)["first token p50"].spread > 0


@pytest.mark.parametrize(("met", "agrees"), [(88, True), (87, False), (92, True), (93, False)])
def test_two_points_of_attainment_are_granted(met, agrees):
    verdict = versus.judge("w", SIMULATED, observed(met=met))
    assert verdict.agrees is agrees
    assert lines(verdict)["in deadline"].within is agrees


@pytest.mark.parametrize(("shift", "agrees"), [(0.03, True), (0.04, False), (-0.04, False)])
def test_a_tenth_of_every_quantile_is_granted(shift, agrees):
    verdict = versus.judge("w", SIMULATED, observed(shift=shift))
    assert verdict.agrees is agrees
    assert lines(verdict)["total p50"].within


@pytest.mark.parametrize("part", ["network", "queue", "prefill", "decode", "gateway"])
def test_the_part_that_is_off_is_blamed(part):
    off = PART._replace(**{part: getattr(PART, part) + 0.2})
    verdict = versus.judge("w", SIMULATED, observed(shift=0.2, part=off))
    assert verdict.blame[0].startswith(f"{part}: +0.2000 s")
    assert "100%" in verdict.blame[0]


def test_other_decisions_are_blamed():
    verdict = versus.judge("w", SIMULATED, observed(shift=0.2, group="us"))
    assert verdict.blame[0].startswith("decisions: 100 %")


def test_without_a_part_to_blame_it_says_so():
    (only,) = versus.judge("w", SIMULATED, observed(met=50)).blame
    assert "no part" in only


@pytest.fixture
def short(monkeypatch):
    """The committed world for a few seconds, and other weather instead of processes."""
    whole = definitions.read("versus")
    world = msgspec.structs.replace(whole.cases[0].world, seconds=20.0, warm_up=5.0)
    case = whole.cases[0]._replace(world=world)
    monkeypatch.setattr(definitions, "read", lambda source: whole._replace(cases=(case,)))

    def put(real):
        monkeypatch.setattr(trial, "run", lambda world, policy, seed, say: real(world, policy, seed))

    return put


def test_the_command_writes_what_it_shows(short, tmp_path):
    short(lambda world, policy, seed: trial.simulate(world, policy, seed, seed))
    path = tmp_path / "deep" / "out.json"
    result = CliRunner().invoke(versus.main, ["--output", str(path)])
    assert result.exit_code == 0, result.output
    told = json.loads(path.read_text())
    assert told["agrees"]
    assert {line["name"] for line in told["figures"]} >= {"in deadline", "first token p99", "total p99"}
    assert "They agree" in result.output


def test_the_command_fails_when_they_differ(short, tmp_path):
    short(lambda world, policy, seed: trial.simulate(world, "lowest_cost", seed, seed))
    result = CliRunner().invoke(versus.main, ["--output", str(tmp_path / "out.json")])
    assert result.exit_code == 1
    assert "off: queue" in result.output


def test_a_world_that_is_not_there_is_told(tmp_path):
    result = CliRunner().invoke(versus.main, ["nowhere", "--output", str(tmp_path / "out.json")])
    assert result.exit_code == 1
    assert "nowhere" in result.output
