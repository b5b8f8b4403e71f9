import msgspec

from loadtests.simulator.result import Run
from loadtests.simulator.runs import simulate
from tests.loadtests.simulator.worlds import house, poisson, world


def test_a_run_survives_json():
    run = simulate(world(), "isochrone", 1, make=house, plan=poisson())
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run
