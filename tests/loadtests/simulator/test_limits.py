import pytest

from loadtests.simulator import fluid
from loadtests.simulator.definitions import Case
from loadtests.simulator.limits import limit, limits
from loadtests.simulator.statistics import key
from loadtests.simulator.world import Control, Queue, Serving
from tests.loadtests.simulator.worlds import world


def test_more_load_can_only_be_met_less_well_and_at_more_cost_each():
    easy, hard = (limit(Case({}, world(load=load)), [1, 2]) for load in (0.2, 3.0))
    assert easy.attainment == pytest.approx(1.0)
    assert hard.attainment < 0.9
    assert hard.steady_attainment <= hard.attainment + 0.05
    assert easy.cost_per_1k <= hard.cost_per_1k


def test_they_are_found_by_scenario_and_label():
    found = limits([Case({"load": 0.2}, world(load=0.2))], [1])
    assert list(found) == [("small", key({"load": 0.2}))]


def test_worlds_that_differ_only_in_their_queues_and_heartbeats_share_a_bound(monkeypatch):
    solved = []
    run_bound = fluid.run_bound
    monkeypatch.setattr(fluid, "run_bound", lambda *of: solved.append(1) or run_bound(*of))
    cases = [
        Case({"queue": queue.value, "heartbeat": beat, "load": load}, world(
            load=load, control=Control(heartbeat_s=beat), serving=Serving(queue=queue)
        ))
        for queue in Queue for beat in (0.1, 5.0) for load in (0.2, 3.0)
    ]  # fmt: skip
    found = limits(cases, [1])
    assert len(found) == 8
    assert len(solved) == 2
    assert all(found["small", key(case.label)] == limit(case, [1]) for case in cases)
