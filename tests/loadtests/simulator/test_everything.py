"""`make sim-all`: all scenarios, each with its page; one that cannot be run stops no other."""

import json
import signal

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from loadtests.simulator import definitions, everything
from loadtests.simulator.definitions import Case, Definition
from loadtests.simulator.world import WorldError
from tests.loadtests.simulator.worlds import world


def test_the_fifteen_scenarios_are_those_that_ship_in_their_order():
    names = everything.scenarios()
    assert [name[:3] for name in names] == [f"s{number:02}" for number in range(1, 16)]


def test_every_policy_but_aliases_is_run():
    assert everything.CONTENDERS.keys() >= everything.ALIASES


@pytest.fixture
def small(monkeypatch):
    """Scenarios by name: two that work, one that does not."""

    def read(name):
        if name == "broken":
            raise WorldError("regions: there is none")
        made = world(name=name, seconds=2.0, warm_up=0.5, full_rate=60.0)
        cases = tuple(Case({"load": load}, replace(made, load=load)) for load in (0.5, 0.8))
        return Definition(name, "", cases)

    monkeypatch.setattr(definitions, "read", read)
    monkeypatch.setattr(
        definitions, "find", lambda name: definitions.resources.files("loadtests") / "scenarios" / "demo.yaml"
    )


@pytest.fixture(autouse=True)
def _the_tests_keep_their_own_end():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def invoke(tmp_path, *names):
    arguments = [part for name in names for part in ("--only", name)]
    arguments += ["--policy", "round_robin", "--seeds", "2", "--processes", "1", "--build", str(tmp_path / "bench")]
    return CliRunner().invoke(everything.main, arguments)


def test_a_scenario_that_cannot_be_run_stops_no_other(small, tmp_path):
    result = invoke(tmp_path, "one", "broken", "two")
    assert result.exit_code == 1
    assert "could not be run: broken: regions: there is none" in result.output
    data = json.loads((tmp_path / "bench" / "sim_all.json").read_text())
    assert [one["scenario"] for one in data["scenarios"]] == ["one", "two"]
    assert [case["case"] for case in data["scenarios"][1]["cases"]] == [{"load": 0.5}, {"load": 0.8}]
    for name in ("one", "two"):
        assert (tmp_path / "bench" / f"sim_{name}.html").exists()


def test_a_second_time_nothing_is_run_again(small, tmp_path, monkeypatch):
    assert invoke(tmp_path, "one").exit_code == 0
    before = (tmp_path / "bench" / "sim_all.json").read_text()
    monkeypatch.setattr("loadtests.simulator.runs.simulate", None)  # calling it would fail
    result = invoke(tmp_path, "one")
    assert result.exit_code == 0, result.output
    assert "4 runs are kept" in result.output
    assert (tmp_path / "bench" / "sim_all.json").read_text() == before
