"""`make sim` on small worlds: pairs, parts, files, and going on after an interruption."""

import json
import signal
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from loadtests.simulator import goals, headline, markdown
from loadtests.simulator.definitions import Case
from loadtests.simulator.goals import HEARTBEAT, LENGTH, LOAD, QUEUE
from loadtests.simulator.headline import Part
from loadtests.simulator.kept import Kept
from loadtests.simulator.world import Queue, Serving
from tests.loadtests.simulator.worlds import world

POLICIES = ("round_robin", "isochrone")


def small(load: float, seconds: float, queue: Queue) -> Case:
    label = {QUEUE: queue.value, HEARTBEAT: 1.0, LOAD: load, LENGTH: seconds}
    made = world(name="headline", load=load, seconds=seconds, warm_up=1.0, serving=Serving(queue=queue), full_rate=60.0)
    return Case(label, made)


def some() -> list[Part]:
    return [
        Part([small(0.7, 4.0, queue) for queue in Queue], range(1, 3)),
        Part([small(load, 2.0, queue) for queue in Queue for load in (0.7, 1.1)], range(1, 3)),
    ]


@pytest.fixture(autouse=True)
def _the_tests_keep_their_own_end():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    kept = Kept(tmp_path_factory.mktemp("kept") / "runs.jsonl")
    return headline.simulate(some(), 1, kept, POLICIES)


def test_the_grid_is_what_was_asked_for():
    """Six policies, both orders, four loads, three heartbeats; the centre as long as the world says."""
    centre, grid = headline.parts()
    assert len(grid.cases) == 24
    assert {case.label[LOAD] for case in grid.cases} == {0.5, 0.7, 0.95, 1.1}
    assert {case.label[HEARTBEAT] for case in grid.cases} == {0.1, 1.0, 5.0}
    assert [case.world.seconds for case in centre.cases] == [40, 40]
    assert len(grid.seeds) >= 3  # two give an interval nobody can use
    assert len(centre.seeds) >= len(grid.seeds)
    for case in (*centre.cases, *grid.cases):
        assert case.world.serving.queue.value == case.label[QUEUE]
        assert case.world.control.heartbeat_s == case.label[HEARTBEAT]
        assert case.world.load == case.label[LOAD]
        assert case.world.full_rate
    assert set(headline.POLICIES) == {
        "round_robin", "least_outstanding", "peak_ewma", "prequal", "isochrone", "clairvoyant",
    }  # fmt: skip


def test_every_case_has_its_policies_seeds_and_bound_in_order(comparisons):
    assert [one.label for one in comparisons] == [case.label for part in some() for case in part.cases]
    for one in comparisons:
        assert set(one.runs) == set(POLICIES)
        assert one.seeds == (1, 2)
        assert one.limit is not None
        assert all(one.mean(name, "attainment") <= one.limit.attainment + 1e-9 for name in POLICIES)
    assert goals.at(comparisons).label[LENGTH] == 4.0


def test_the_three_files_tell_the_same(comparisons, tmp_path):
    worlds = [case.world for part in some() for case in part.cases]
    how = markdown.circumstances(comparisons, 1, 12.0)
    headline.write(comparisons, worlds, how, tmp_path / "bench", tmp_path / "docs" / "results.md")
    data = json.loads((tmp_path / "bench" / "sim.json").read_text())
    assert (data["scenario"], len(data["cases"])) == ("headline", 6)
    met = data["cases"][0]["policies"]["isochrone"]["attainment"]
    assert met == comparisons[0].mean("isochrone", "attainment")
    assert data["made"]["runs"] == 24
    text = (tmp_path / "docs" / "results.md").read_text()
    assert f"{met * 100:.1f} ± " in text
    page = (tmp_path / "bench" / "sim.html").read_text()
    assert f"{met * 100:.1f} ± " in page
    assert "fantoch" in page  # the definition, with its sources


def test_what_was_kept_is_not_run_again(comparisons, tmp_path, monkeypatch):
    kept = Kept(tmp_path / "runs.jsonl")
    cases = {msgspec.json.encode(case.label): case for part in some() for case in part.cases}
    for one in comparisons:
        for runs in one.runs.values():
            for run in runs:
                kept.add(cases[msgspec.json.encode(run.case)].world, run)
    monkeypatch.setattr("loadtests.simulator.runs.simulate", None)  # calling it would fail
    again = headline.simulate(some(), 1, Kept(kept.path), POLICIES)
    assert [one.runs for one in again] == [one.runs for one in comparisons]


def test_a_fresh_run_forgets_what_was_kept_and_a_resumed_one_does_not(tmp_path, monkeypatch):
    seen = []

    def look(wanted, processes, kept, policies=()):
        seen.append(len(kept))
        raise headline.WorldError("enough")

    monkeypatch.setattr(headline, "simulate", look)
    path = tmp_path / "sim_runs.jsonl"
    for arguments, found in ((["--resume"], 1), ([], 0)):
        case = small(0.7, 2.0, Queue.FIFO)
        path.unlink(missing_ok=True)
        Kept(path).add(case.world, headline.run_all([case], ["round_robin"], [1], 1)[0])
        result = CliRunner().invoke(headline.main, [*arguments, "--build", str(tmp_path)])
        assert result.exit_code == 1
        assert "enough" in result.output
        assert seen[-1] == found


def test_a_plain_kill_ends_the_pool_at_once(monkeypatch):
    ended = []
    child = SimpleNamespace(terminate=lambda: ended.append(1))
    monkeypatch.setattr("multiprocessing.active_children", lambda: [child, child])
    headline.end_with_parent()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert len(ended) == 2
