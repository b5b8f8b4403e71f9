import msgspec
import pytest

from loadtests.simulator.baselines.static_lp import StaticLp, group_of, solution, split
from loadtests.simulator.world import Nodes, Profile, Serving
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand
from tests.fleets import worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena
from tests.loadtests.simulator.worlds import world

ONE = Class(name="one", first_token_s=2.0)
WORLD = world(
    profiles={"p": Profile(accelerator="a", prefill_tokens_per_s=10_000, slots=1000)},
    nodes=(
        Nodes(name="cheap", region="east", profiles=("p",), usd_per_hour=1.0),
        Nodes(name="dear", region="east", profiles=("p",), usd_per_hour=5.0),
    ),
    gateways=("east",), serving=Serving(noise=0.0), load=0.75, full_rate=20.0,
    demand=Demand(classes=(ONE,), sizes=Ranges(prompt_tokens=(1000, 1000), output_tokens=(1, 1))),
)  # fmt: skip
"""15 requests a second over two nodes of 10 each: two thirds go to the cheap one."""


def stage() -> Arena:
    names = ("east-cheap-0", "east-dear-0")
    return Arena(StaticLp(WORLD, "east"), *(worker(name, endpoints=(ENDPOINT,)) for name in names))


def test_requests_follow_the_programs_split():
    places = stage().spread(3000, first_token_deadline=2.0)
    assert places["east-cheap-0"] / 3000 == pytest.approx(2 / 3, abs=0.03)


def test_whatever_the_load():
    arena = stage()
    arena.loaded("east-cheap-0", waiting=90, running=8, backlog=50.0)
    assert arena.spread(300, first_token_deadline=2.0)["east-cheap-0"] > 150


def test_who_the_program_does_not_know_goes_anywhere():
    places = stage().spread(400, first_token_deadline=0.7)
    assert min(places["east-cheap-0"], places["east-dear-0"]) > 120


def test_a_group_that_is_gone_is_made_up_for():
    arena = Arena(StaticLp(WORLD, "east"), worker("east-dear-0", endpoints=(ENDPOINT,)))
    assert arena.spread(20, first_token_deadline=2.0) == {"east-dear-0": 20}


def test_all_gateways_of_a_run_share_one_solution():
    encoded = msgspec.json.encode(WORLD)
    assert solution(encoded) is solution(bytes(encoded))
    assert split(encoded, "west")[1] == {}


def test_groups_are_named_as_the_worlds_nodes():
    assert group_of("europe-west1-h100-1") == "europe-west1-h100"
