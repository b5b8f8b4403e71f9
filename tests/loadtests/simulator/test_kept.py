"""Kept runs: found again by what they came from, whole after a kill."""

from loadtests.simulator.kept import Kept
from tests.loadtests.simulator import specimens


def test_what_was_kept_is_found_by_world_policy_and_seed(tmp_path):
    path, world = tmp_path / "new" / "runs.jsonl", specimens.world()
    kept = Kept(path)
    run = specimens.run("prequal", 3)
    kept.add(world, run)
    again = Kept(path)
    assert len(again) == 1
    assert again.get(world, "prequal", 3) == run
    assert again.get(world, "prequal", 4) is None
    assert again.get(world, "isochrone", 3) is None
    assert again.get(specimens.world(load=0.9), "prequal", 3) is None


def test_a_torn_line_is_cut_off_and_the_file_goes_on(tmp_path):
    path, world = tmp_path / "runs.jsonl", specimens.world()
    kept = Kept(path)
    kept.add(world, specimens.run(seed=1))
    kept.add(world, specimens.run(seed=2))
    path.write_bytes(path.read_bytes()[:-40])
    torn = Kept(path)
    assert torn.get(world, "isochrone", 1) is not None
    assert torn.get(world, "isochrone", 2) is None
    torn.add(world, specimens.run(seed=2))
    assert len(Kept(path)) == 2


def test_undefined_figures_survive_the_disk(tmp_path):
    path, world = tmp_path / "runs.jsonl", specimens.world()
    kept = Kept(path)
    kept.add(world, specimens.run(seed=1, p50_s=float("nan")))
    assert Kept(path).get(world, "isochrone", 1) is not None
