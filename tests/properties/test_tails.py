"""Two choices against one: the tail of the queues, and equals that share."""

from collections import Counter

import pytest

from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import Control, Nodes, Place, Profile, RoundTrip, Serving, Wan
from loadtests.workload import Class
from tests.loadtests.simulator.worlds import poisson, world

NODES = 40
LOAD = 0.85
SECONDS = 120.0
PATIENT = Class(name="patient", first_token_s=1000.0)
HERE = {"here": Place(latitude=0, longitude=0)}
AT_ONCE = RoundTrip(between=("here", "here"), min_ms=0.01, avg_ms=0.01)


def equals(count, **fields):
    """One gateway in front of equal nodes with one slot each, 10,000 tokens a second."""
    return world(
        regions=HERE, round_trips=(AT_ONCE,), wan=Wan(spike_share=0.0), gateways=("here",),
        profiles={"p": Profile(accelerator="a", prefill_tokens_per_s=10_000)},
        nodes=(Nodes(name="n", region="here", profiles=("p",), count=count, usd_per_hour=1.0),),
        serving=Serving(noise=0.0), control=Control(heartbeat_s=1.0), **fields,
    )  # fmt: skip


def tails(policy):
    """Share of nodes with at least k requests, averaged over the run: M/M/1 queues, one per node."""
    here = equals(NODES, seconds=SECONDS, warm_up=0.0)
    plan = poisson(
        SECONDS, NODES * LOAD * 10.0, kinds=(PATIENT,), prompt=1000.0, output=0.0, origins=("here",)
    )  # services of 0.1 s on average
    simulation = Simulation(here, CONTENDERS[policy], 1, plan)
    lengths: Counter[int] = Counter()

    def look(_):
        lengths.update(worker.running + worker.waiting for worker in simulation.workers.values())
        if simulation.now < SECONDS - 1.0:
            simulation.timeline.at(simulation.now + 0.25, look)

    simulation.timeline.at(SECONDS / 10, look)
    simulation.run()
    return [sum(n for length, n in lengths.items() if length >= k) / lengths.total() for k in range(8)]


def test_two_choices_make_the_tail_doubly_exponential():
    """Mitzenmacher (2001): of nodes with k or more there are load**k by chance, load**(2**k - 1) by two choices."""
    one, two = tails("random"), tails("p2c")
    for k in (1, 2, 3, 4):
        assert one[k] == pytest.approx(LOAD**k, rel=0.15)
    for k in (1, 2, 3):
        assert two[k] == pytest.approx(LOAD ** (2**k - 1), rel=0.12)
    # Of endlessly many nodes; 40 have a little more in the tail, and still nothing like LOAD**k.
    assert LOAD**15 * 0.9 < two[4] < LOAD**15 * 1.5
    assert two[6] < 2e-3 < 0.1 < one[6]


STICKY = {"litellm_latency", "c3", "llmd_headroom"}
"""By design they tell equals apart by what they happened to measure: the fastest sample, the shortest service, and the
slowest that is still in time."""


@pytest.mark.parametrize("policy", sorted(CONTENDERS.keys() - STICKY))
def test_equals_share(policy):
    """Nobody is favoured for its name or its place in a list."""
    count, plan = 6, poisson(60.0, 12.0, kinds=(PATIENT,), prompt=800.0, output=0.0, origins=("here",))
    simulation = Simulation(equals(count, seconds=60.0, warm_up=0.0), CONTENDERS[policy], 1, plan)
    simulation.run()
    served = Counter(call.worker.id for call in simulation.ledger.calls)
    assert len(served) == count
    fair = len(plan) / count
    assert all(0.6 * fair < each < 1.5 * fair for each in served.values()), served
