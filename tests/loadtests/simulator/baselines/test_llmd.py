import pytest

from loadtests.simulator.baselines import PREFIXES
from loadtests.simulator.baselines.llmd import EXPLORED, Headroom, Scorers, headrooms, kv_use, scaled
from policies.candidates import Candidates
from policies.records import Curve
from tests.fleets import endpoint, request, worker
from tests.loadtests.simulator.baselines.arena import Arena, three


def test_the_shortest_reported_queue_scores_highest_until_the_next_report():
    arena = Arena(Scorers(), *three())
    arena.loaded("a", waiting=4, running=2)
    arena.loaded("b", waiting=0, running=2)
    arena.loaded("c", waiting=1, running=2)
    assert {arena.send().node.worker.id for _ in range(20)} == {"b"}


def test_queue_and_memory_are_weighed():
    arena = Arena(Scorers(), *three()[:2])
    arena.loaded("a", waiting=0, running=8, kv_use=0.95)
    arena.loaded("b", waiting=1, running=1, kv_use=0.05)
    assert arena.send().node.worker.id == "a"  # 2 * 1 + 2 * 0.05 against 2 * 0 + 2 * 0.95
    (a, b) = arena.router.fleet.nodes()
    assert [kv_use(node.state) for node in (a, b)] == [0.95, 0.05]
    arena.loaded("a", waiting=0, running=4)
    assert kv_use(a.state) == 0.5


def test_a_known_prefix_outweighs_a_queue_but_not_forever():
    arena = Arena(Scorers(), *three())
    home = arena.send(affinity="s").node.worker.id
    for name in "abc":
        arena.loaded(name, 0.5, waiting=2 if name == home else 0, running=1)
    assert arena.send(0.5, affinity="s").node.worker.id == home
    assert arena.send(0.5, affinity="other").node.worker.id != home
    balancer = arena.router.balancer
    for number in range(PREFIXES - 1):
        balancer._prefixes.remember(home, f"x{number}")
    assert balancer._prefixes.known(home, "s")
    arena.loaded(home, 0.6)
    while arena.send(0.6, affinity="new").node.worker.id != home:
        pass
    assert not balancer._prefixes.known(home, "s")


def staggered() -> Arena:
    """Five workers whose prefill of 1,000 tokens takes 0.1 to 0.9 s."""
    return Arena(
        Headroom(),
        *(
            worker(f"w{tenths}", endpoints=(endpoint(curve=Curve(0.0, prefill=tenths * 1e-4), max_batch=8),))
            for tenths in (1, 3, 5, 7, 9)
        ),
    )


def test_the_least_time_to_spare_is_the_likeliest_among_those_in_time():
    places = staggered().spread(2000, first_token_deadline=0.6)
    late = places["w7"] + places["w9"]
    assert 0 < late < 3 * EXPLORED * 2000
    assert places["w5"] > places["w3"] > 10 * places["w1"]
    assert places["w5"] == pytest.approx(2 * places["w3"], rel=0.2)


def test_with_nobody_in_time_an_idle_one_then_the_smallest_deficit():
    arena = staggered()
    order = [arena.send(first_token_deadline=0.05).node.worker.id for _ in range(6)]
    assert order == ["w1", "w3", "w5", "w7", "w9", "w1"]


def test_without_an_objective_the_soonest_idle_one():
    arena = staggered()
    assert [arena.send().node.worker.id for _ in range(2)] == ["w1", "w3"]


def test_headroom_per_token_counts_where_it_is_asked_for():
    arena = Arena(Headroom(), *three())
    columns = arena.router.fleet.columns("chat")
    asked = request(prompt_tokens=1000.0, first_token_deadline=1.0, token_interval=0.015)
    candidates = Candidates(columns, asked, columns.accepts, 0.0)
    first, pace = headrooms(candidates, 0.0)
    assert first == pytest.approx([1.0 - 0.111] * 3, abs=1e-3)
    assert pace == pytest.approx([0.005] * 3)
    assert scaled(pace) is None
