from pathlib import Path

import pytest

from loadtests import scenario

MINIMAL = """
name: two
regions:
  a: {source_address: 127.0.10.1, latitude: 0, longitude: 0, local_rtt_ms: 0.5}
  b: {source_address: 127.0.11.1, latitude: 1, longitude: 1}
legs:
  - {between: [a, b], rtt_ms: 80, jitter_ms: 2}
gateways: [a]
workers:
  - {id: n1, region: b, models: [m], variants: [fp32], usd_per_hour: 1}
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "scenario.yaml"
        path.write_text(text)
        return path

    return write


def test_demo_has_three_regions_with_two_workers_each_at_different_prices():
    demo = scenario.load()
    for region in demo.regions:
        here = [worker for worker in demo.workers if worker.region == region]
        assert len(here) == 2
        assert len({worker.usd_per_hour for worker in here}) == 2
        assert {variant for worker in here for variant in worker.variants} == {"fp32", "int8"}
    assert len(demo.regions) == 3


def test_near_region_is_dearest_and_prices_fall_with_distance():
    demo = scenario.load()
    home = demo.gateways[0]
    by_distance = sorted(demo.regions, key=lambda region: demo.round_trip(home, region)[0])
    dearest = [max(w.usd_per_hour for w in demo.workers if w.region == region) for region in by_distance]
    cheapest = [min(w.usd_per_hour for w in demo.workers if w.region == region) for region in by_distance]
    assert by_distance[0] == home
    assert all(low > high for low, high in zip(cheapest, dearest[1:], strict=False))


def test_round_trip_is_symmetric_and_in_seconds(written):
    world = scenario.load(written(MINIMAL))
    assert world.round_trip("a", "b") == world.round_trip("b", "a") == (0.080, 0.002)
    assert world.round_trip("a", "a") == (0.0005, 0.0)


def test_ways_may_be_drawn_as_the_simulators_are(written):
    drawn = "drawn: {min_ms: 78, mdev_ms: 1}"
    world = scenario.load(written(MINIMAL.replace("jitter_ms: 2", drawn)))
    assert world.drawn("b", "a") == scenario.Drawn(78, 1)
    assert world.drawn("a", "a") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rtt_ms: 80", "rtt_ms: -1", "$.legs[0].rtt_ms"),
        ("usd_per_hour: 1", "usd_per_hour: 1, colour: red", "colour"),
        ("region: b", "region: nowhere", "nowhere"),
        ("gateways: [a]", "gateways: [c]", "gateways: no such region 'c'"),
        ("between: [a, b]", "between: [a, c]", "legs: no such region 'c'"),
        ("legs:\n  - {between: [a, b], rtt_ms: 80, jitter_ms: 2}", "legs: []", "0 legs join ['a', 'b']"),
        ("127.0.11.1", "127.0.10.1", "2 times"),
        ("127.0.11.1", "10.0.0.1", "not a loopback address"),
        ("name: two", "name: [", "scenario.yaml"),
    ],
)
def test_bad_file_is_refused_with_the_place(written, old, new, said):
    assert old in MINIMAL
    with pytest.raises(scenario.ScenarioError) as refusal:
        scenario.load(written(MINIMAL.replace(old, new)))
    assert said in str(refusal.value)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(scenario.ScenarioError, match="absent"):
        scenario.load(tmp_path / "absent.yaml")


def test_what_is_saved_is_read_back(tmp_path):
    scenario.save(scenario.load(), tmp_path / "copy.yaml")
    assert scenario.load(tmp_path / "copy.yaml") == scenario.load()
