from collections import Counter

from policies.balancers.cheapest_in_deadline import LOYALTY, SPREAD
from policies.records import Curve
from policies.request import LoadSeen
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
