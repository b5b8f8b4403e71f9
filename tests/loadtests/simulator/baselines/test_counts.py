from loadtests.simulator.baselines.counts import LeastOutstanding, StaleJsq
from tests.loadtests.simulator.baselines.arena import Arena, three


def test_least_outstanding_counts_its_own_only():
    arena = Arena(LeastOutstanding(), *three())
    arena.loaded("a", waiting=50, running=8, backlog=9.0)
    first = [arena.send() for _ in range(3)]
    assert {dispatch.node.worker.id for dispatch in first} == {"a", "b", "c"}
    arena.answer(first[1], 1.0)
    assert arena.send(1.0).node is first[1].node


def test_the_stale_shortest_queue_is_joined_until_the_next_report():
    arena = Arena(StaleJsq(), *three())
    arena.loaded("a", waiting=3, running=8)
    arena.loaded("b", waiting=1, running=8)
    arena.loaded("c", waiting=2, running=8)
    assert {arena.send().node.worker.id for _ in range(20)} == {"b"}
    arena.loaded("b", 1.0, waiting=20, running=8)
    assert {arena.send(1.0).node.worker.id for _ in range(20)} == {"c"}


def test_without_a_report_ones_own_are_what_is_known():
    arena = Arena(StaleJsq(), *three())
    for name in "abc":
        arena.loaded(name, waiting=None, running=None, backlog=None)
    assert {arena.send().node.worker.id for _ in range(3)} == {"a", "b", "c"}
