"""Goals: met and missed ones are told apart, and what was not simulated is not claimed."""

import msgspec
import pytest

from loadtests.simulator import goals
from loadtests.simulator.statistics import Limit, gather
from tests.loadtests.simulator import specimens


def case(policies, load=0.7, heartbeat=1.0, queue="fifo", **changed):
    label = {goals.LOAD: load, goals.HEARTBEAT: heartbeat, goals.QUEUE: queue}
    (made,) = gather(specimens.runs(policies, case=label, **changed))
    return made


def named(comparisons, part):
    (found,) = [goal for goal in goals.goals(comparisons) if part in goal.what]
    return found


GOOD = {"isochrone": 0.97, "prequal": 0.87, "clairvoyant": 0.99}
BAD = {"isochrone": 0.80, "prequal": 0.83, "clairvoyant": 0.99}


@pytest.mark.parametrize(("policies", "met"), [(GOOD, True), (BAD, False)])
def test_goals_at_the_centre(policies, met):
    comparisons = [case(policies)]
    for part in ("over Prequal", "the clairvoyant, FIFO", "Our Prequal"):
        assert named(comparisons, part).met is met, part
    assert (
        named(comparisons, "over Prequal").got
        == f"{(policies['isochrone'] - policies['prequal']) * 100:+.1f} ± 0.0 points"
    )


def test_only_what_was_simulated_is_answered():
    assert {goal.what for goal in goals.goals([case({"isochrone": 0.9})])} == {
        "Promises broken (accepted as feasible, but late), worst case"
    }
    assert goals.at([case(GOOD)], queue="edf") is None
    edf = case(GOOD, queue="edf")
    assert goals.at([case(GOOD), edf], queue="edf") is edf
    assert not named([edf], "the clairvoyant, EDF").met


def test_the_longest_runs_speak_for_a_case():
    def lasting(seconds):
        made = case(GOOD)
        return msgspec.structs.replace(made, label={**made.label, goals.LENGTH: seconds})

    short, long = lasting(12.0), lasting(40.0)
    assert goals.at([short, long]) is long
    assert goals.at([long, short]) is long


def test_staleness_is_the_loss_between_fresh_and_stale():
    comparisons = [case({"isochrone": 0.97}, heartbeat=0.1), case({"isochrone": 0.90}, heartbeat=5.0)]
    goal = named(comparisons, "lost from heartbeats")
    assert (goal.got, goal.met) == ("7.0 points", False)
    comparisons[1] = case({"isochrone": 0.965}, heartbeat=5.0)
    assert named(comparisons, "lost from heartbeats").met


def test_the_worst_case_of_the_promises_counts():
    good, bad = case(GOOD, miss_rate_accepted=0.01), case(GOOD, load=0.95, miss_rate_accepted=0.2)
    assert named([good], "Promises").met
    goal = named([good, bad], "Promises")
    assert not goal.met
    assert goal.got == "20.0 % (load 0.95, heartbeat 1 s, FIFO queue)"


def test_costs_are_ratios():
    runs = [
        *case({"isochrone": 0.9}, cost_per_1k=0.1).runs["isochrone"],
        *case({"prequal": 0.9}, cost_per_1k=0.125).runs["prequal"],
    ]
    (both,) = gather(runs)
    goal = named([both], "over prequal's")
    assert (goal.got, goal.met) == ("0.80", True)


def test_a_policy_above_the_bound_is_named():
    made = msgspec.structs.replace(case(GOOD), limit=Limit(0.98, 0.05, 0.9, 0.06))
    goal = named([made], "fluid bound")
    assert not goal.met
    assert goal.got.startswith("clairvoyant (")
    assert named([msgspec.structs.replace(made, limit=Limit(1.0, 0.05, 0.9, 0.06))], "fluid bound").met


def test_overload_and_losses():
    comparisons = [case(BAD), case({"isochrone": 0.82, "prequal": 0.2}, load=1.1)]
    assert named(comparisons, "in overload").met
    assert goals.losses(comparisons) == ["load 0.7, heartbeat 1 s, FIFO queue: prequal +3.0 ± 0.0 points"]
