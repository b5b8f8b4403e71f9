"""The exact optimum: worlds that can be solved by hand, and policies in the simulator that never beat it."""

import itertools
import random

import pytest

from loadtests.simulator.exact import MOST_REQUESTS, optimum
from loadtests.simulator.fluid import run_bound
from loadtests.simulator.runs import simulate
from loadtests.simulator.world import Nodes, Place, Profile, Queue, RoundTrip, Serving, Wan, WorldError
from loadtests.workload import Class, Planned
from tests.loadtests.simulator.worlds import world

STEP = 0.05
QUICK = Profile(accelerator="q", prefill_tokens_per_s=10_000)
SLUGGISH = Profile(accelerator="s", prefill_tokens_per_s=5_000)
PLACES = {name: Place(latitude=0, longitude=0) for name in ("here", "there")}
WAYS = {("here", "here"): 0.0, ("there", "there"): 0.0, ("here", "there"): 100.0}
TRIPS = tuple(RoundTrip(between=pair, min_ms=ms or 1e-3, avg_ms=ms or 1e-3) for pair, ms in WAYS.items())


def group(name="quick", region="here", count=1, usd=3.6):
    return Nodes(name=name, region=region, profiles=(name,), count=count, usd_per_hour=usd)


def small(*nodes, queue=Queue.FIFO, **fields):
    """Requests of 1,000 tokens take 0.1 s on a quick node, 0.2 s on a sluggish one."""
    defaults = {
        "regions": PLACES, "round_trips": TRIPS, "wan": Wan(spike_share=0.0),
        "profiles": {"quick": QUICK, "sluggish": SLUGGISH}, "nodes": nodes or (group(),), "gateways": ("here", "there"),
        "serving": Serving(noise=0.0, queue=queue), "seconds": 4.0, "warm_up": 0.0,
    }  # fmt: skip
    return world(**(defaults | fields))


def asked(*requests, origin="here"):
    """(arrival, deadline[, origin])."""
    kinds = {}
    return [
        Planned(
            number, at, kinds.setdefault(granted, Class(name=f"k{granted}", first_token_s=granted)), 1000, 1, 1, number,
            *where or (origin,),
        )
        for number, (at, granted, *where) in enumerate(requests)
    ]  # fmt: skip


def test_a_node_does_one_thing_at_a_time():
    plan = asked((0.0, 0.26), (0.0, 0.26), (0.0, 0.26))
    assert optimum(small(), plan, STEP).served == 2
    assert optimum(small(group(count=2)), plan, STEP).served == 3


def test_it_looks_ahead_where_first_come_first_served_cannot():
    patient_first = asked((0.0, 1.0), (0.0, 1.0), (0.05, 0.11))
    assert optimum(small(), patient_first, STEP).served == 3


def test_distance_is_paid_both_ways():
    assert optimum(small(group(region="there")), asked((0.0, 0.21)), STEP).served == 1
    assert optimum(small(group(region="there")), asked((0.0, 0.19)), STEP).served == 0
    assert optimum(small(group(region="there")), asked((0.0, 0.11), origin="there"), STEP).served == 1


def test_as_many_as_possible_then_as_cheaply():
    nodes = small(group(usd=3.6), group("sluggish", usd=0.36))
    two = optimum(nodes, asked((0.0, 0.21), (0.0, 0.21)), STEP)
    assert two.served == 2
    assert two.usd == pytest.approx((0.1 * 3.6 + 0.2 * 0.36) / 3600)
    one = optimum(nodes, asked((0.0, 0.21)), STEP)
    assert one.usd == pytest.approx(0.2 * 0.36 / 3600)


def test_instants_between_the_steps_are_no_obstacle():
    plan = asked((0.013, 0.21), (0.013, 0.21), (0.219, 0.11))
    assert optimum(small(), plan, STEP).served == 3  # 0.013, 0.113, then 0.219: all in time


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"serving": Serving(noise=0.1)}, "noise"),
        ({"profiles": {"quick": Profile(accelerator="q", prefill_tokens_per_s=10_000, slots=2)}}, "one slot"),
        ({"profiles": {"quick": Profile(accelerator="q", prefill_tokens_per_s=9_999)}}, "no multiple"),
        ({"regions": {name: Place(latitude=0, longitude=0, egress_usd_per_gb=0.1) for name in PLACES}}, "egress"),
        ({"nodes": (group(count=9),)}, "nodes"),
    ],
)
def test_other_worlds_are_refused(fields, fault):
    with pytest.raises(WorldError, match=fault):
        optimum(small(**fields), asked((0.0, 1.0)), STEP)


def test_so_are_too_many_requests():
    with pytest.raises(WorldError, match="requests"):
        optimum(small(), asked(*[(0.0, 1.0)] * (MOST_REQUESTS + 1)), STEP)


NODES = (
    group("quick", "here", 1, 3.6), group("sluggish", "here", 2, 0.36), group("quick", "there", 1, 2.4),
    group("sluggish", "there", 1, 0.5),
)  # fmt: skip


def busy(seed):
    """Fifty requests in two seconds, for nodes that could do 35 a second."""
    rng = random.Random(seed)
    times = sorted(rng.uniform(0.0, 2.0) for _ in range(50))
    return asked(*[(at, rng.choice((0.15, 0.3, 0.3, 1.0)), rng.choice(("here", "here", "there"))) for at in times])


MOST_REGRET = {"clairvoyant": 2.5, "clairvoyant_myopic": 3.2, "isochrone": 6.0}
"""Requests of 50 that each serves fewer than the optimum, on average over the seeds below and both orders, at most.
Recorded when written: 2.0, 2.7 and 4.8."""


def test_nobody_in_the_simulator_beats_the_optimum():
    regret = dict.fromkeys(MOST_REGRET, 0.0)
    cases = list(itertools.product((1, 2, 3), Queue))
    for seed, queue in cases:
        here, plan = small(*NODES, queue=queue), busy(seed)
        best = optimum(here, plan, STEP)
        assert best.served < len(plan)
        assert best.served / len(plan) <= run_bound(here, plan).attainment + 1e-9
        for policy in MOST_REGRET:
            figures = simulate(here, policy, seed, plan=plan).figures
            served = round(figures.attainment * len(plan))
            assert served <= best.served, (policy, seed, queue)
            if served == best.served:
                assert figures.cost_per_1k * served / 1000 >= best.usd * (1 - 1e-6)
            regret[policy] += (best.served - served) / len(cases)
    assert all(regret[policy] <= most for policy, most in MOST_REGRET.items()), regret
    assert regret["clairvoyant"] < regret["isochrone"]
