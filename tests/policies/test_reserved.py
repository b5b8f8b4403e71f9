import pytest

from policies import cost, reserved
from policies.records import MarginalPrice, ReservedPrice
from policies.request import LoadSeen
from tests.fleets import MODEL, load, request, router, worker


def queued(r, name, seconds, now, seq=2):
    r.observe(LoadSeen(load(name, seq, waiting=5, running=1, backlog=seconds), 0.0), now)


def test_what_is_paid_for_already_comes_first_until_its_queue_costs_others_as_much():
    r = router(worker("paid", price=ReservedPrice(4.0)), worker("spot", price=MarginalPrice(1.0)))
    columns = r.fleet.columns(MODEL)
    paid, spot = (node.slot for node in columns.nodes)
    assert r.consider(request(deadline=9.0), 0.0).node.worker.id == "paid"
    for wait, home in ((0.02, "paid"), (0.03, "spot")):  # at 25 ms of wait a quarter of four dollars is one dollar
        queued(r, "paid", wait, 1.0, seq=int(wait * 1e3))
        r.tick(1.0)
        assert columns.usd[paid] * columns.congestion[paid] == pytest.approx(4.0 * columns.usd[spot] * wait / 0.1)
        assert r.consider(request(deadline=9.0), 1.0).node.worker.id == home


def test_equals_without_a_queue_stay_equals_though_their_waits_differ_by_a_little():
    r = router(worker("a", price=ReservedPrice(4.0)), worker("b", price=ReservedPrice(4.0)))
    queued(r, "a", 0.004, 0.0)
    r.tick(0.0)
    assert {r.consider(request(), 0.0).node.worker.id for _ in range(50)} == {"a", "b"}


def test_only_those_furthest_off_are_written_at_one_tick(monkeypatch):
    monkeypatch.setattr(reserved, "MOST", 1)
    r = router(worker("a", price=ReservedPrice(1.0)), worker("b", price=ReservedPrice(1.0)))
    queued(r, "a", 0.1, 0.0)
    queued(r, "b", 0.3, 0.0)
    shown = {node.worker.id: node for node in r.fleet.nodes()}
    columns = r.fleet.columns(MODEL)
    reserved.follow(columns)
    assert (shown["a"].worth, shown["b"].worth) == (cost.LEAST_WORTH, pytest.approx(0.75))
    reserved.follow(columns)
    assert shown["a"].worth == pytest.approx(0.5)
    before = columns.usd.tolist()
    reserved.follow(columns)
    assert columns.usd.tolist() == before


def test_a_queue_that_is_gone_makes_it_cheap_again():
    r = router(worker("w", price=ReservedPrice(1.0)))
    queued(r, "w", 1.0, 0.0)
    r.tick(0.0)
    (node,) = r.fleet.nodes()
    assert node.worth == pytest.approx(10 / 11)
    r.observe(LoadSeen(load("w", 3), 0.0), 0.1)
    r.tick(0.1)
    assert node.worth == cost.LEAST_WORTH
    assert node.cost(request()) == pytest.approx(float(r.fleet.columns(MODEL).usd[0]))
