"""The table of policies: every name makes a contender that decides, and an unknown one says what there is."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests.simulator.contender import POLICY, Setting
from loadtests.simulator.contenders import CONTENDERS, make
from loadtests.simulator.runs import simulate
from loadtests.simulator.world import WorldError
from policies.request import Dispatch, LoadSeen, Outcome, RoundTrip, WorkerSeen
from tests.fleets import load, request, worker
from tests.loadtests.simulator.worlds import poisson, world


def setting(name: str) -> Setting:
    world: Any = SimpleNamespace(name=name)
    return Setting(world, "home", 1, random.Random(1), None)


OWN = ("isochrone", "cheapest_in_deadline", "p2c", "least_loaded", "round_robin", "nearest", "lowest_cost")


@pytest.mark.parametrize("name", OWN)
def test_the_products_own_policies_decide_and_settle(name):
    contender = make(name, setting(name))
    contender.observe(WorkerSeen(worker("w")), 0.0)
    contender.observe(RoundTrip("w", 0.01), 0.0)
    contender.observe(LoadSeen(load("w"), 0.0), 0.0)
    decision = contender.route(request(policy=POLICY), 0.0)
    assert isinstance(decision, Dispatch)
    assert decision.node.worker.id == "w"
    contender.report(decision, Outcome(total=0.05), 0.05)
    contender.tick(1.0)
    assert list(contender.probes()) == []


def test_each_gateway_gets_a_contender_of_its_own():
    first, second = make("round_robin", setting("a")), make("round_robin", setting("a"))
    first.observe(WorkerSeen(worker("w")), 0.0)
    assert not isinstance(second.route(request(policy=POLICY), 0.0), Dispatch)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(WorldError, match=r"'prekwal'.*nearest"):
        make("prekwal", setting("a"))


def test_names_are_those_of_the_command_line():
    assert all(name == name.lower() and name.isidentifier() for name in CONTENDERS)


@pytest.mark.parametrize("name", sorted(CONTENDERS))
def test_everybody_gets_through_a_run_and_the_same_one_twice(name):
    here = world(seconds=3.0, warm_up=0.5)
    first, second = (simulate(here, name, 1, plan=poisson(3.0, rate=40.0)) for _ in range(2))
    assert first.detail.answered == first.detail.offered > 50
    assert first.figures.attainment > 0.3
    assert first.detail == second.detail
