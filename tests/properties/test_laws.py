"""What must be true of any simulation, whoever decides in it."""

from statistics import fmean

import pytest
from msgspec.structs import replace

from loadtests.simulator import fluid
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.runs import Simulation, planned, simulate
from loadtests.simulator.world import Control, Queue, Serving
from tests.loadtests.simulator.worlds import TRIPS, poisson, world

SEEDS = (1, 2, 3)
NEAR = tuple(replace(trip, min_ms=0.2, avg_ms=0.3, mdev_ms=0.05) for trip in TRIPS)
"""Regions as near as racks: the age of news is the heartbeat's alone."""


def attained(policy, heartbeat):
    """Mean attainment and herd index over seeds, at a load that the best can nearly serve."""
    near = world(
        control=Control(heartbeat_s=heartbeat, publish_delay_s=0.0005, on_responses=False, on_probes=False),
        round_trips=NEAR, seconds=20.0, warm_up=5.0,
    )  # fmt: skip
    runs = [simulate(near, policy, seed, plan=poisson(20.0, 85.0, seed=seed)).figures for seed in SEEDS]
    return fmean(run.attainment for run in runs), fmean(run.herd_index for run in runs)


def test_as_heartbeats_go_to_zero_the_shipped_policy_approaches_the_clairvoyant():
    """Or passes it: greedy with true waits is not the optimum."""
    clairvoyant, _ = attained("clairvoyant", 1.0)
    fresh, _ = attained("isochrone", 0.02)
    assert fresh > clairvoyant - 0.05


def test_the_shortest_queue_by_old_news_herds():
    """Mitzenmacher, "How useful is old information?" (2000): the shortest queue is the best choice by fresh news, and
    worse than chance by old ones."""
    fresh, calm = attained("stale_jsq", 0.02)
    stale, herd = attained("stale_jsq", 5.0)
    chance, _ = attained("random", 5.0)
    assert fresh > chance + 0.1
    assert stale < chance - 0.1
    assert herd > 1.5 * calm


def test_a_clairvoyant_needs_no_news():
    assert attained("clairvoyant", 0.1)[0] == pytest.approx(attained("clairvoyant", 5.0)[0], abs=0.03)


@pytest.mark.parametrize("policy", CONTENDERS)
@pytest.mark.parametrize(("queue", "load"), [(Queue.FIFO, 0.7), (Queue.EDF, 1.2)])
def test_nobody_beats_the_fluid(policy, queue, load):
    """Neither in deadlines met, nor in the cost of as many of them. Whoever does has found a mistake in the books."""
    small = world(seconds=8.0, warm_up=2.0, serving=Serving(queue=queue), load=load)
    plan = planned(small, 7)
    figures = simulate(small, policy, 7, plan=plan).figures
    assert figures.attainment <= fluid.run_bound(small, plan).attainment + 1e-9
    if figures.attainment > 0.05:
        cheapest = fluid.run_bound(small, plan, figures.attainment).cost_per_1k
        assert figures.cost_per_1k >= cheapest * (1 - 1e-6)


@pytest.mark.parametrize("policy", CONTENDERS)
def test_under_every_policy_each_request_has_one_ending_and_nothing_is_left_behind(policy):
    plan = poisson(5.0, 80.0)
    simulation = Simulation(world(seconds=5.0), CONTENDERS[policy], 1, plan)
    simulation.run()
    calls = simulation.ledger.calls
    assert sorted(call.number for call in calls) == [one.number for one in plan]
    assert all(call.closed for call in calls)
    for edge in simulation.edges:
        assert edge.contender.open == 0
        assert not any(state.in_flight for state in edge.contender.fleet.workers.values())
    assert not any(worker.running or worker.waiting for worker in simulation.workers.values())
