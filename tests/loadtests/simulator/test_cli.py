import json
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from loadtests.simulator.cli import simulate
from tests.loadtests.simulator import logs
from tests.loadtests.simulator.worlds import world


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.yaml"
    tree = msgspec.to_builtins(world(seconds=4.0, warm_up=1.0, full_rate=30.0))
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(tree, file)
    return str(path)


def run(*arguments, status=0):
    result = CliRunner().invoke(simulate, [*map(str, arguments), "--processes", "1"])
    assert result.exit_code == status, result.output
    return result


def test_the_figures_of_each_policy_as_json(scenario):
    document = json.loads(run(scenario, "--policies", "isochrone,p2c", "--seeds", 2, "--json").stdout)
    assert (document["scenario"], document["seeds"], sorted(document["policies"])) == ("small", 2, ["isochrone", "p2c"])
    assert set(document["policies"]["p2c"]) >= {"attainment", "cost_per_1k", "herd_index", "decision_us"}
    assert document["bound"]["attainment"] >= document["policies"]["isochrone"]["attainment"]


def test_several_loads_heartbeats_and_queues_are_cases_of_their_own(scenario):
    arguments = ["--load", "0.2,0.4", "--heartbeat", "0.5", "--queue", "fifo,edf", "--json"]
    cases = [case["case"] for case in json.loads(run(scenario, *arguments).stdout)["cases"]]
    assert sorted((case["load"], case["serving.queue"]) for case in cases) == [
        (0.2, "edf"), (0.2, "fifo"), (0.4, "edf"), (0.4, "fifo"),
    ]  # fmt: skip


def test_a_table_and_a_report(scenario, tmp_path):
    page = tmp_path / "out" / "report.html"
    result = run(scenario, "--report", page)
    assert "isochrone" in result.stdout
    assert str(page) in result.stdout
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policies", "magic"), "no policy is called 'magic'; there are isochrone"),
        (("--queue", "lifo"), "no order is called 'lifo'; there are fifo, edf"),
        (("--load", "-1"), "-1"),
        (("--load", "many"), "many"),
        (("--rtt", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--world", "nowhere.yaml"), "nowhere.yaml"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(scenario, arguments, message):
    assert message in run(scenario, *arguments, status=2).stderr


def test_a_scenario_that_is_not_there_is_named():
    assert "no-such" in run("no-such", status=2).stderr


def test_a_fault_that_hits_nothing_is_named(scenario, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"extends: {scenario}\nfaults: [{{kind: outage, at: 1, target: [mars]}}]\n")
    assert "faults[0] (outage): target: mars" in run(path, status=2).stderr


FOREIGN = Path(str(resources.files("loadtests") / "scenarios" / "foreign"))


def test_what_another_policy_would_have_made_of_a_decision_log(tmp_path):
    paths, _ = logs.write(tmp_path, logs.small_world(seconds=10.0, rate=30.0))
    mine = tmp_path / "mine.yaml"
    mine.write_text("balancer: {kind: nearest}")
    replays = [part for path in paths for part in ("--replay", path)]
    told = json.loads(run(*replays, "--policy", mine, "--policy", "p2c", "--json").stdout)
    assert set(told["policies"]) == {"simulated again", "mine", "p2c"}
    assert told["logged"]["requests"] > 200
    shown = run(*replays, "--policy", mine).stdout
    assert "as logged" in shown
    assert "The model's error" in shown


def test_what_it_would_have_made_of_anothers_log():
    log, mapping = FOREIGN / "nginx_access.log", FOREIGN / "nginx.yaml"
    told = json.loads(run("--foreign", log, "--mapping", mapping, "--json").stdout)
    assert set(told["policies"]) == {"simulated again", "isochrone"}
    assert told["logged_policy"] == "the same choices"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--foreign", "a.log"), "--mapping MAP"),
        (("--foreign", "a.log", "--mapping", "m.yaml", "--replay", "b.log"), "--mapping MAP"),
        (("--foreign", "a.log", "--mapping", "m.yaml"), "m.yaml: No such file"),
        (("--replay", "nowhere.jsonl"), "nowhere.jsonl: No such file"),
    ],
)
def test_a_what_if_that_cannot_be_is_told(arguments, message):
    assert message in run(*arguments, status=2).output
