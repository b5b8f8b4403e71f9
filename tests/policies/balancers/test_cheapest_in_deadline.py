from collections import Counter

from policies.balancers.cheapest_in_deadline import LONGEST, LOYALTY, SPREAD
from policies.config import CheapestInDeadlineConfig, PolicyConfig
from policies.records import Curve
from policies.request import LoadSeen, Outcome
from tests.fleets import MODEL, endpoint, load, request, router, worker


def drawn(r, asked, times=50):
    """Who would get it, without reserving anything."""
    return Counter(r.consider(asked, 0.0).node.worker.id for _ in range(times))


def test_the_tier_is_five_percent_wide():
    r = router(worker("a", usd_per_hour=1.0), worker("b", usd_per_hour=1.04), worker("c", usd_per_hour=1.06))
    assert set(drawn(r, request())) == {"a", "b"}


def test_inside_the_tier_chances_go_by_room():
    slow = endpoint(curve=Curve(0.04), max_batch=4)  # as dear a request, and a quarter of the room a second
    r = router(worker("fast", usd_per_hour=4.0), worker("slow", usd_per_hour=1.0, endpoints=(slow,)))
    r.fleet.workers["slow"].service, r.fleet.workers["fast"].service = 0.04, 0.01
    r.fleet.refresh(MODEL, 0.0)
    got = drawn(r, request(), 400)
    assert 2.5 < got["fast"] / got["slow"] < 6.5


def test_a_queue_counts_as_a_price():
    r = router(worker("cheap", usd_per_hour=1.0), worker("dear", usd_per_hour=1.8))
    assert set(drawn(r, request(deadline=9.0))) == {"cheap"}
    r.observe(LoadSeen(load("cheap", 2, waiting=9, running=1, backlog=0.09), 0.0), 0.0)
    assert set(drawn(r, request(deadline=9.0))) == {"dear"}, "90 ms of queue nearly double a price"


def test_what_nobody_can_see_yet_is_spread_over_as_many_nodes_as_have_room():
    r = router(*(worker(f"w{i}", usd_per_hour=1.0 + i) for i in range(8)))
    columns = r.fleet.columns(MODEL)
    assert set(drawn(r, request())) == {"w0"}
    columns.unseen = columns.headroom[:3].sum() / SPREAD
    assert set(drawn(r, request(), 200)) == {"w0", "w1", "w2"}
    columns.unseen = 1e9
    assert len(drawn(r, request(), 800)) == 8


def test_a_session_stays_while_its_node_is_not_much_dearer():
    near, far = LOYALTY - 0.01, LOYALTY + 0.01
    for price, homes in ((near, 2), (far, 1)):
        r = router(worker("a", usd_per_hour=1.0), worker("b", usd_per_hour=price))
        kept = {key: set(drawn(r, request(affinity=key), 5)) for key in "abcdefgh"}
        assert all(len(nodes) == 1 for nodes in kept.values())
        assert len(set.union(*kept.values())) == homes


BATCHED = endpoint(curve=Curve(0.01), max_batch=4)


def fleet_of(count, **packing):
    """Equal nodes of four slots each."""
    house = PolicyConfig(balancer=CheapestInDeadlineConfig(**packing))
    return router(*(worker(f"w{i}", endpoints=(BATCHED,)) for i in range(count)), house=house)


def test_packing_fills_a_node_before_the_next():
    packed, spread = fleet_of(4, pack=True), fleet_of(4)
    counts = {}
    for name, r in (("packed", packed), ("spread", spread)):
        counts[name] = Counter(r.route(request(deadline=9.0), 0.0).node.worker.id for _ in range(8))
    assert sorted(counts["packed"].values()) == [4, 4]
    assert len(counts["spread"]) > 2


def test_a_packed_node_that_drains_is_left_to_drain():
    r = fleet_of(2, pack=True)
    sent = [r.route(request(deadline=9.0), 0.0) for _ in range(5)]
    (other,) = {d.node.worker.id for d in sent[4:]}
    for dispatch in sent[:3]:
        r.report(dispatch, Outcome(total=0.01), 0.0)
    # One of four at work on each: the fewest free slots win, and equals are filled in their order.
    assert {r.route(request(deadline=9.0), 0.0).node.worker.id for _ in range(3)} == {sent[0].node.worker.id}
    assert other != sent[0].node.worker.id


def test_packing_is_for_the_tier_and_for_what_is_in_time():
    r = router(
        worker("cheap", usd_per_hour=1.0, endpoints=(BATCHED,)),
        worker("dear", usd_per_hour=2.0, endpoints=(BATCHED,)),
        house=PolicyConfig(balancer=CheapestInDeadlineConfig(pack=True)),
    )
    r.observe(LoadSeen(load("dear", 2, running=3), 0.0), 0.0)
    assert set(drawn(r, request(deadline=9.0))) == {"cheap"}


def test_packing_needs_fresh_knowledge():
    r = fleet_of(4, pack=True)
    columns = r.fleet.columns(MODEL)
    columns.unseen = 5.0  # more than one node has slots for
    assert len(drawn(r, request(deadline=9.0), 100)) == 2
    columns.unseen = 100.0  # more than all have
    assert len(drawn(r, request(deadline=9.0), 200)) == 4


def test_packing_looks_at_the_fullest_of_many():
    r = fleet_of(LONGEST + 20, pack=True)
    r.observe(LoadSeen(load("w70", 2, running=3), 0.0), 0.0)
    assert set(drawn(r, request(deadline=9.0))) == {"w70"}
