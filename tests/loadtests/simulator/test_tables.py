from pathlib import Path

import msgspec
import pytest

from loadtests.rows import FileError
from loadtests.simulator.tables import Tables, carbon, pairs, prices, round_trips
from tests.loadtests.simulator import worlds

RTT = """src,dst,rtt_min_ms,rtt_avg_ms,rtt_max_ms,rtt_mdev_ms
east,east,0.1,0.2,1.0,0.05
west,west,0.1,0.3,1.0,0.05
far,far,0.1,0.3,1.0,0.05
east,west,60,62,99,0.5
west,east,58,64,99,1.5
east,far,200,210,300,2
far,west,150,160,300,2
moon,moon,1,1,1,1
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def test_every_pair_once_and_every_region_with_itself():
    assert pairs({"b", "a"}) == [("a", "a"), ("a", "b"), ("b", "b")]


def test_both_ways_are_one_round_trip(written):
    trips = {trip.between: trip for trip in round_trips(written(RTT), ["west", "east", "far"])}
    both = trips["east", "west"]
    assert (both.min_ms, both.avg_ms, both.mdev_ms) == (58, 63, 1)
    assert trips["far", "west"].avg_ms == 160
    assert len(trips) == 6


def test_a_missing_pair_is_named(written):
    with pytest.raises(FileError, match=r"table.csv: no round trip between far and west"):
        round_trips(written(RTT.replace("far,west", "far,moon")), ["west", "east", "far"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rtt_avg_ms", "average", r"table.csv:1: no column rtt_avg_ms"),
        ("east,west,60", "east,west,-60", r"table.csv:5: rtt_min_ms: -60 is out of range"),
        ("60,62,99", "60,x,99", r"table.csv:5: rtt_avg_ms: a number was expected, not 'x'"),
        ("east,east", ",east", r"table.csv:2: src: a name was expected"),
    ],
)
def test_a_bad_row_is_named(written, old, new, message):
    with pytest.raises(FileError, match=message):
        round_trips(written(RTT.replace(old, new, 1)), ["east"])


def test_prices_are_per_accelerator(written):
    text = "region,accelerator,usd_per_hour\neast,fast,3\neast,slow,0.5\n"
    assert prices(written(text)) == {("", "east", "fast"): 3.0, ("", "east", "slow"): 0.5}


def test_prices_from_a_catalogue_are_divided_by_the_count(written):
    text = "cloud,region,accelerator,count,ondemand_usd_h,spot_usd_h\nc,east,fast,8,80,40\nc,east,slow,1,1,\n"
    assert prices(written(text)) == {("", "east", "fast"): 5.0, ("c", "east", "fast"): 5.0}


def test_a_price_is_of_the_nodes_own_cloud_where_the_table_tells_clouds_apart(written):
    both = [msgspec.structs.replace(worlds.NODES[0], name=cloud or "any", cloud=cloud) for cloud in ("", "a", "b")]
    text = "cloud,region,accelerator,usd_per_hour\na,east,fast,3\nb,east,fast,4\n"
    made = Tables(prices=written(text)).apply(worlds.world(nodes=tuple(both)))
    assert [nodes.usd_per_hour for nodes in made.nodes] == [3, 3, 4]


def test_carbon_in_its_forms(written):
    assert carbon(written("region,g_per_kwh\neast,400\n")) == {"east": 400}
    yearly = "Google Cloud Region,Location,Google CFE,Grid carbon intensity (gCO2eq / kWh)\neast,Town,0.5,79.2\n"
    assert carbon(written(yearly)) == {"east": 79.2}
    footprint = "Region,Country,NERC Region,CO2e (metric ton/kWh),Source\neast,Land,X,0.000415755,EPA\n"
    assert carbon(written(footprint)) == pytest.approx({"east": 415.755})


def test_applied_to_a_world(written, tmp_path):
    world = worlds.world()
    regions, accelerators = list(world.regions), {profile.accelerator for profile in world.profiles.values()}
    price, grid = tmp_path / "price.csv", tmp_path / "grid.csv"
    rows = [f"{region},{accelerator},7" for region in regions for accelerator in accelerators]
    price.write_text("\n".join(["region,accelerator,usd_per_hour", *rows]))
    grid.write_text("\n".join(["region,g_per_kwh", *(f"{region},55" for region in regions)]))
    made = Tables(written(RTT), price, grid).apply(world)
    assert made.round_trip("west", "east").avg_ms == 63
    assert {nodes.usd_per_hour for nodes in made.nodes} == {7}
    assert {place.carbon_g_per_kwh for place in made.regions.values()} == {55}
    assert Tables().apply(world) is world


def test_what_a_table_lacks_is_named(written):
    with pytest.raises(FileError, match=r"table.csv: no price of fast in east \(nodes 'fast'\)"):
        Tables(prices=written("region,accelerator,usd_per_hour\nmoon,fast,3\n")).apply(worlds.world())
    with pytest.raises(FileError, match=r"table.csv: no carbon intensity of far"):
        Tables(carbon=written("region,g_per_kwh\neast,3\nwest,3\n")).apply(worlds.world())
