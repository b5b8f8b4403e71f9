import numpy as np
import pytest

from loadtests.simulator.baselines.routebalance import RouteBalance, scaled
from tests.fleets import worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena


def priced(**usd: float) -> tuple:
    return tuple(worker(name, usd_per_hour=each, endpoints=(ENDPOINT,)) for name, each in usd.items())


def test_latency_and_cost_are_weighed_on_one_scale():
    arena = Arena(
        RouteBalance(), *priced(cheap=1.0, middle=1.005, dear=3.0), rtt={"cheap": 0.5, "middle": 0.2, "dear": 0.01}
    )
    assert arena.send().node.worker.id == "middle"


def test_only_who_is_in_time_is_compared_and_else_all_are():
    arena = Arena(RouteBalance(), *priced(cheap=1.0, dear=9.0), rtt={"cheap": 0.5, "dear": 0.01})
    assert arena.send(first_token_deadline=0.4).node.worker.id == "dear"
    assert arena.send(first_token_deadline=0.01).node.worker.id in ("cheap", "dear")


def test_scaling_ignores_who_is_not_in_the_tier():
    values, tier = np.array([1.0, 2.0, 3.0, 99.0], np.float32), np.array([True, True, True, False])
    assert scaled(values, tier)[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert scaled(np.ones(4, np.float32), tier) == pytest.approx([0.0] * 4)
