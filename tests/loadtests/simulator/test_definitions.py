from pathlib import Path

import pytest

from loadtests.rows import FileError
from loadtests.simulator.definitions import find, merged, read, shipped
from loadtests.simulator.tables import Tables
from loadtests.simulator.world import Queue

SCENARIOS = Path(__file__).parents[3] / "loadtests" / "scenarios"
SMALL = """
regions:
  a: {latitude: 0, longitude: 0}
  b: {latitude: 0, longitude: 90}
round_trips:
  - {between: [a, a], min_ms: 0.1, avg_ms: 0.2}
  - {between: [b, b], min_ms: 0.1, avg_ms: 0.2}
  - {between: [a, b], min_ms: 50, avg_ms: 60}
gateways: [a, b]
profiles:
  p: {accelerator: x, prefill_tokens_per_s: 10000, decode_s: 0.01, power_watts: 500}
nodes:
  - {name: one, region: a, profiles: [p], usd_per_hour: 1}
  - {name: two, region: b, profiles: [p], usd_per_hour: 2}
demand:
  classes: [{name: tight, first_token_s: 1}, {name: loose}]
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)

    def over(text, name="over.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return over


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_can_be_read_served_and_understood(name):
    definition = read(name)
    assert definition.about.endswith(".")
    labels = [tuple(case.label.items()) for case in definition.cases]
    assert len(set(labels)) == len(labels)
    for case in definition.cases:
        # A plan of some 40,000 requests is about a minute of simulation; only the largest fleets have more.
        world = case.world
        assert world.full_rate is not None, "the bound is recorded, not computed at every start"
        requests = world.load * world.full_rate * world.seconds
        assert requests < 70_000 or sum(nodes.count for nodes in world.nodes) >= 1000
        assert world.demand.plan(5, 10, world.origins(), seed=1)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("s[0-9][0-9]_*.yaml")), ids=lambda path: path.stem)
def test_scenarios_are_small_files_over_the_headline_world(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith(f"# S{int(path.name[1:3])}. ")
    assert "extends: headline.yaml" in lines


def test_the_headline_world_is_as_announced():
    (case,) = read("headline").cases
    world = case.world
    assert len(world.regions) == len(world.gateways) == 10
    counts = {name: sum(nodes.count for nodes in world.nodes if nodes.name == name) for name in ("h100", "a100", "l4")}
    assert counts == {"h100": 20, "a100": 30, "l4": 60}
    shares = [(kind.first_token_s, kind.share) for kind in world.demand.classes]
    assert shares == [(0.4, 30), (1.0, 40), (3.0, 20), (15.0, 10)]
    assert (world.seconds, world.warm_up, world.control.heartbeat_s) == (40, 10, 1)


def test_a_name_stands_for_a_file_beside_a_path_or_what_ships(write, tmp_path, monkeypatch):
    over = write("extends: small.yaml\n")
    assert find("small.yaml", over) == tmp_path / "small.yaml"
    assert find(over) == over
    assert find("headline").name == find("headline.yaml").name == "headline.yaml"
    assert find("steady").name == "s01_steady.yaml"
    monkeypatch.chdir(tmp_path)
    assert find("small.yaml") == Path("small.yaml")
    with pytest.raises(FileError, match=r"nowhere: no such file, and no .* ships; there are calibration, headline"):
        find("nowhere")


def test_merging():
    under = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 3, "d": 4}
    assert merged(under, {"a": {"y": 5, "z": 6}, "b": [7], "c": None, "e": {"f": 1}}) == {
        "a": {"x": 1, "y": 5, "z": 6}, "b": [7], "d": 4, "e": {"f": 1},
    }  # fmt: skip
    assert under["a"] == {"x": 1, "y": 2}


def test_a_file_stands_on_what_it_extends(write):
    write("extends: small.yaml\nload: 0.3\nseconds: 99\n", "middle.yaml")
    definition = read(write("extends: middle.yaml\nload: 0.4\nabout: Nothing.\n"))
    (case,) = definition.cases
    assert definition.name == "over"
    assert definition.about == "Nothing."
    assert (case.world.load, case.world.seconds, case.label) == (0.4, 99, {})


def test_vary_spans_every_combination(write):
    cases = read(write("extends: small.yaml\nvary: {load: [0.1, 0.2], serving.queue: [fifo, edf]}\n")).cases
    assert [case.label for case in cases] == [
        {"load": load, "serving.queue": queue} for load in (0.1, 0.2) for queue in ("fifo", "edf")
    ]
    assert cases[3].world.load == 0.2
    assert cases[3].world.serving.queue is Queue.EDF


def test_cases_are_named_and_may_be_varied(write):
    text = (
        "extends: small.yaml\ncases: {x: {gateways: [a]}, y: {set: {nodes.two.count: 4}}}\nvary: {load: [0.1, 0.2]}\n"
    )
    cases = read(write(text)).cases
    assert [case.label for case in cases] == [
        {"case": "x", "load": 0.1}, {"case": "x", "load": 0.2}, {"case": "y", "load": 0.1}, {"case": "y", "load": 0.2},
    ]  # fmt: skip
    assert cases[0].world.gateways == ("a",)
    assert [nodes.count for nodes in cases[0].world.nodes] == [1, 1]
    assert [nodes.count for nodes in cases[2].world.nodes] == [1, 4]


def test_dotted_paths_name_entries_by_name_number_or_all(write):
    text = """extends: small.yaml
set: {nodes.*.count: 3, nodes.one.count: 5, demand.classes.1.first_token_s: 7, regions.*.demand: 2, wan.spike_share: 0}
"""
    (case,) = read(write(text)).cases
    assert [nodes.count for nodes in case.world.nodes] == [5, 3]
    assert case.world.demand.classes[1].first_token_s == 7
    assert {place.demand for place in case.world.regions.values()} == {2}
    assert case.world.wan.spike_share == 0


def test_overrides_have_the_last_word(write):
    path = write("extends: small.yaml\nvary: {load: [0.1, 0.2]}\ncases: {x: {load: 0.5}}\n")
    (case,) = read(path, {"load": 0.9}).cases
    assert (case.world.load, case.label) == (0.9, {"case": "x"})
    varied = read(path, {"load": [0.3, 0.6], "control.heartbeat_s": 2}).cases
    assert [case.world.load for case in varied] == [0.3, 0.6]
    assert {case.world.control.heartbeat_s for case in varied} == {2}
    assert [case.label["load"] for case in varied] == [0.3, 0.6]


def test_a_recorded_full_rate_is_kept_only_while_it_is_of_this_world(write, tmp_path):
    path = write("extends: small.yaml\nfull_rate: 50\n")
    (tmp_path / "t.csv").write_text("at,prompt_tokens,output_tokens\n0,1,1\n1,2,2\n")
    trace = {"demand.trace": str(tmp_path / "t.csv")}
    assert read(path, {"load": 0.5, "control.heartbeat_s": 3}).cases[0].world.full_rate == 50
    assert read(path, trace).cases[0].world.full_rate is None
    assert read(path, trace | {"full_rate": 70}).cases[0].world.full_rate == 70
    assert read(path, base=tmp_path / "small.yaml").cases[0].world.full_rate is None


def test_a_scenario_can_be_laid_on_another_world(write, tmp_path):
    (case,) = read(write("extends: headline.yaml\nload: 0.2\n"), base=tmp_path / "small.yaml").cases
    assert set(case.world.regions) == {"a", "b"}
    assert case.world.load == 0.2


def test_a_trace_lies_beside_the_file_that_names_it(write, tmp_path):
    (tmp_path / "t.csv").write_text("at,prompt_tokens,output_tokens\n0,1,1\n1,2,2\n")
    (case,) = read(write("extends: small.yaml\ndemand: {trace: t.csv}\n")).cases
    assert case.world.demand.trace == str(tmp_path / "t.csv")


def test_tables_replace_and_are_checked(write, tmp_path):
    rtt = tmp_path / "rtt.csv"
    rtt.write_text("src,dst,rtt_min_ms,rtt_avg_ms,rtt_mdev_ms\na,a,1,1,0\nb,b,1,1,0\na,b,1000,1001,0\n")
    over = write("extends: small.yaml\ngateways: [a]\nnodes: [{name: n, region: b, profiles: [p], usd_per_hour: 1}]\n")
    assert read(over).cases[0].world.round_trip("a", "b").avg_ms == 60
    with pytest.raises(FileError, match=r"\('tight'\).first_token_s: no policy can serve it"):
        read(over, tables=Tables(round_trips=rtt))


def test_a_price_of_carbon_is_a_price(write):
    """500 W at 400 g/kWh are 200 g an hour: at 100 dollars a tonne, 2 cents."""
    text = "extends: small.yaml\nregions: {a: {carbon_g_per_kwh: 400}}\ncarbon_usd_per_tonne: 100\n"
    (case,) = read(write(text)).cases
    assert [nodes.usd_per_hour for nodes in case.world.nodes] == pytest.approx([1.02, 2.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: small.yaml\nlod: 3\n", r"over.yaml: Object contains unknown field `lod`"),
        ("extends: small.yaml\nload: -1\n", r"over.yaml: Expected `float` > 0.0 - at `\$.load`"),
        ("extends: small.yaml\nset: {nodes.one.cuont: 3}\n", r"unknown field `cuont` - at `\$.nodes\[0\]`"),
        ("extends: small.yaml\nset: {nodes.three.count: 3}\n", r"nodes.three.count: there is no 'three' to set"),
        ("extends: small.yaml\nset: {load.x: 3}\n", r"Expected `float`, got `object` - at `\$.load`"),
        ("extends: small.yaml\ngateways: [c]\n", r"over.yaml: gateways: no such region 'c'; there are a, b"),
        ("extends: small.yaml\ndemand: {sizes: nope}\n", r"sizes: no fit 'nope'; there are .* - at `\$.demand`"),
        ("extends: small.yaml\nvary: [1]\n", r"over.yaml: vary: a mapping was expected, of lists of values"),
        ("extends: small.yaml\nvary: {gateways: [[a], [b]]}\n", r"vary: gateways: a list of plain values was expected"),
        ("extends: small.yaml\nvary: {load: []}\n", r"vary: load: a list of plain values was expected"),
        ("extends: small.yaml\ncases: {x: 3}\n", r"over.yaml: cases: a mapping was expected, of mappings"),
        ("extends: over.yaml\n", r"over.yaml: extends: it extends itself"),
        ("extends: gone.yaml\n", r"gone.yaml: no such file"),
        ("extends: [a]\n", r"over.yaml: extends: the name of a file was expected"),
        ("just text\n", r"over.yaml: a mapping was expected"),
        ("a: [\n", r"over.yaml: while parsing"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(write, text, message):
    with pytest.raises(FileError, match=message):
        read(write(text))


def test_names_of_a_trace_must_be_known(write, tmp_path):
    (tmp_path / "t.csv").write_text("at,prompt_tokens,output_tokens,region\n0,1,1,a\n1,2,2,moon\n")
    with pytest.raises(FileError, match=r"t.csv:3: region: no such region 'moon'; there are a, b"):
        read(write("extends: small.yaml\ndemand: {trace: t.csv}\n"))
