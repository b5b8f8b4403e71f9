"""What baselines have in common: figures by slot, and where a worker's endpoints stand."""

import numpy as np
import pytest

from loadtests.simulator.baselines import Directory, by_slot, idle_first_token, in_flight
from loadtests.simulator.baselines.blind import Random
from loadtests.simulator.contenders import CONTENDERS
from policies.candidates import Candidates
from policies.request import WorkerGone, WorkerSeen
from tests.fleets import endpoint, request, worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena, three


def test_figures_come_in_the_order_of_slots():
    arena = Arena(Random(), *three())
    sent = arena.send()
    figures = by_slot(arena.router.fleet.columns("chat"), in_flight)
    assert figures[sent.node.slot] == 1.0
    assert figures.sum() == 1.0


def test_idle_leaves_the_wait_out():
    arena = Arena(Random(), *three(), rtt={"b": 0.05})
    arena.loaded("a", waiting=9, running=8, backlog=3.0)
    columns = arena.router.fleet.columns("chat")
    idle = idle_first_token(Candidates(columns, request(prompt_tokens=1000.0), columns.accepts, 0.0))
    assert idle == pytest.approx([0.111, 0.16, 0.111], abs=1e-3)


def test_the_directory_follows_comings_and_goings():
    both = worker("a", endpoints=(ENDPOINT, endpoint(variant="int8")))
    arena = Arena(Random(), both, *three()[1:])
    columns, directory = arena.router.fleet.columns("chat"), Directory()

    def workers(name: str) -> list[str]:
        return [columns.nodes[slot].id for slot in directory.slots(columns, name)]

    assert workers("a") == ["a/chat:fp32", "a/chat:int8"]
    assert workers("nobody") == []
    arena.router.observe(WorkerGone("b"), 0.0)  # the last one takes its slot
    assert workers("b") == []
    assert workers("c") == ["c/chat:fp32"]
    arena.router.observe(WorkerGone("c"), 0.0)
    arena.router.observe(WorkerSeen(worker("d", endpoints=(ENDPOINT,))), 0.0)
    assert workers("c") == []
    assert workers("d") == ["d/chat:fp32"]
    assert np.array(directory.slots(columns, "d")).tolist() == [2]


def test_the_table_names_every_baseline_of_the_specification():
    named = """
        random round_robin nearest least_outstanding p2c peak_ewma stale_jsq c3 prequal lowest_price litellm_latency
        litellm_cost llmd_scorers llmd_headroom stargate_power stargate_widen gorgo skywalker routebalance static_lp
        clairvoyant clairvoyant_myopic isochrone
    """
    assert set(named.split()) <= CONTENDERS.keys()
