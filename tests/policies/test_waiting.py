"""The waiting requests: bounded, in turn, none forgotten and none for longer than it may."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from policies.admission import AdmissionConfig
from policies.candidates import Candidates
from policies.config import PolicyConfig
from policies.records import Curve
from policies.request import INFINITE, Dispatch, Hold, Infeasible, LoadSeen, Outcome
from policies.waiting import LOOKS, MOST, Waiting, due, latest_start
from tests.fleets import endpoint, load, request, router, worker

HOLD = (Infeasible.HOLD, Infeasible.BEST_EFFORT)


def waiting(*requests, until=100.0):
    made = Waiting()
    for asked in requests:
        made.join(asked, until, 0.0)
    return made


def order(made):
    """Who would be served in turn, if there were room for one after the other; a request costs 1."""
    served = []
    while made.lines:
        asked = next(made.front())
        made.serve(asked, 1.0)
        made.leave(asked)
        served.append(asked.id)
    return served


def test_the_earliest_deadline_is_first_whichever_deadline_that_is():
    late, early = request(id="late", deadline=9.0), request(id="early", deadline=5.0)
    token, patient = request(id="token", first_token_deadline=6.0), request(id="patient", patience=7.0)
    assert order(waiting(late, token, patient, early)) == ["early", "token", "patient", "late"]


def test_equal_deadlines_go_in_the_order_they_came():
    assert order(waiting(*(request(id=name, deadline=1.0) for name in "abc"))) == ["a", "b", "c"]


def test_tenants_take_turns_whatever_their_deadlines_and_numbers():
    many = [request(id=f"m{n}", tenant="many", deadline=1.0 + n) for n in range(4)]
    few = [request(id=f"f{n}", tenant="few", deadline=50.0 + n) for n in range(2)]
    assert order(waiting(*many, *few)) == ["m0", "f0", "m1", "f1", "m2", "m3"]


def test_a_tenant_that_comes_later_does_not_get_what_it_did_not_ask_for():
    made = waiting(*(request(id=f"a{n}", tenant="a", deadline=float(n)) for n in range(6)))
    for _ in range(3):
        first = next(made.front())
        made.serve(first, 1.0)
        made.leave(first)
    for n in range(3):
        made.join(request(id=f"b{n}", tenant="b", deadline=100.0 + n), 9.0, 0.0)
    assert order(made) == ["b0", "a3", "b1", "a4", "b2", "a5"]


def test_a_weight_is_a_larger_share():
    requests = [
        request(id=tenant, tenant=tenant, deadline=float(n)) for n in range(30) for tenant in ("heavy", "light")
    ]
    made, served = waiting(*requests), []
    while len(served) < 20:
        first = next(made.front())
        made.serve(first, 1.0 if first.tenant == "light" else 1.0 / 3)
        made.leave(first)
        served.append(first.tenant)
    assert served.count("heavy") == 15


def test_the_next_in_turn_is_tried_when_the_first_does_not_fit_and_then_no_more():
    made = waiting(*(request(id=str(n), deadline=float(n)) for n in range(9)))
    assert [asked.id for asked in made.front()] == [str(n) for n in range(LOOKS)]


def test_a_change_is_no_more_work_than_it_may_be_and_every_line_comes_round():
    made = waiting(*(request(id=str(n), model=f"m{n}", deadline=1.0) for n in range(2 * MOST)))
    first = [asked.id for asked in made.front()]
    assert len(first) == MOST
    assert {asked.id for asked in made.front()} == {str(n) for n in range(2 * MOST)} - set(first)


def test_whoever_has_none_finds_a_place_however_many_others_have():
    made = Waiting()
    hog = [request(id=str(n), tenant="hog") for n in range(20)]
    for asked in hog:
        if made.admits(asked, 8):
            made.join(asked, 1.0, 0.0)
    assert len(made) == 8
    assert made.admits(request(tenant="other"), 8)
    assert not Waiting().admits(request(), 0)


def test_a_place_is_kept_until_another_instant_and_given_up_once():
    made, asked = Waiting(), request(id="same")
    made.join(asked, 1.0, 0.0)
    made.join(asked, 2.0, 0.5)
    assert len(made) == made.count(asked) == 1
    twin = request(id="same")
    assert made.holds(asked)
    assert not made.holds(twin)
    assert made.leave(twin) is None
    place = made.leave(asked)
    assert (place.since, place.until) == (0.0, 2.0)
    assert made.leave(asked) is None
    assert not made.lines
    assert repr(made) == "<Waiting 0 in 0 lines>"


# Until when.

CURVE = Curve(0.1)


def until(busy=3.0, **wishes):
    r = router(worker("w", endpoints=(endpoint(curve=CURVE),)))
    r.observe(LoadSeen(load("w", 2, waiting=30, running=1, backlog=busy), 0.0), 0.0)
    columns = r.fleet.columns("chat")
    asked = request(**wishes)
    return latest_start(Candidates(columns, asked, columns.reachable, 0.0), 0.0)


def test_it_may_wait_as_long_as_its_service_alone_still_fits():
    alone = until(deadline=2.0)
    assert 1.3 < alone < 1.9, "0.1 s of service, and its spread"
    assert until(deadline=3.0) == pytest.approx(alone + 1.0, abs=1e-5)
    assert until(deadline=2.0, busy=300.0) == pytest.approx(alone, abs=0.01), "however long the queue is"
    assert until(deadline=9.0, first_token_deadline=2.0) < 2.0


def test_it_waits_no_longer_than_it_or_its_route_wants():
    assert until(deadline=2.0, max_wait=0.5) == 0.5
    assert until(patience=7.0) == 7.0
    assert until(patience=7.0, max_wait=1.0) == 1.0
    assert until(token_interval=1.0, patience=7.0) == 7.0


def test_what_no_queue_is_to_blame_for_does_not_get_better():
    assert until(deadline=0.05) < 0.0
    r = router(worker("w", endpoints=(endpoint(curve=CURVE, quality=0.5),)))
    columns = r.fleet.columns("chat")
    nobody = columns.eligible(request(), 0.9, (), INFINITE)
    assert latest_start(Candidates(columns, request(deadline=9.0), nobody, 0.0), 0.0) == -INFINITE


def test_a_line_is_ordered_by_what_comes_first():
    assert due(request(deadline=4.0, first_token_deadline=2.0)) == 2.0
    assert due(request(arrived=1.0, patience=5.0)) == 6.0


# All of it, by chance.


class Held(RuleBasedStateMachine):
    """A gateway with one worker: requests come, are held, go, leave; loads come; time passes."""

    dispatched = Bundle("dispatched")
    MOST = 3

    def __init__(self):
        super().__init__()
        self.router = router(
            worker("w", endpoints=(endpoint(curve=Curve(0.1)),)),
            house=PolicyConfig(admission=AdmissionConfig(max_held=self.MOST)),
        )
        self.now, self.seq = 1.0, 10
        self.held = {}
        """Requests by identity, with the `until` last told."""

    def _route(self, asked):
        decision = self.router.route(asked, self.now)
        if isinstance(decision, Hold):
            assert decision.until > self.now
            self.held[id(asked)] = asked, decision.until
        else:
            self.held.pop(id(asked), None)
        return decision

    @rule(target=dispatched, budget=st.sampled_from([0.3, 1.0, 4.0]), tenant=st.sampled_from("abc"),
          wants=st.sampled_from([HOLD, (Infeasible.HOLD, Infeasible.REJECT), (Infeasible.BEST_EFFORT,)]))  # fmt: skip
    def come(self, budget, tenant, wants):
        asked = request(deadline=self.now + budget, arrived=self.now, tenant=tenant, when_infeasible=wants)
        return self._route(asked)

    @rule(target=dispatched)
    def change(self):
        for asked in self.router.waiting.front():
            decision = self._route(asked)
            if isinstance(decision, Dispatch):
                return decision
        return None

    @rule(decision=consumes(dispatched))
    def answer(self, decision):
        if isinstance(decision, Dispatch):
            self.router.report(decision, Outcome(total=0.1), self.now)

    @rule(backlog=st.sampled_from([0.0, 0.2, 2.0, 20.0]))
    def heartbeat(self, backlog):
        self.seq += 1
        figures = load("w", self.seq, waiting=int(backlog * 10), running=1, backlog=backlog)
        self.router.observe(LoadSeen(figures, 0.0), self.now)

    @rule(seconds=st.floats(0.01, 1.0))
    def wait(self, seconds):
        """Whoever drives the router routes each by its `until`, at that instant."""
        end = self.now + seconds
        while self.held:
            asked, until = min(self.held.values(), key=lambda one: one[1])
            if until > end:
                break
            self.now = until
            decision = self._route(asked)
            if isinstance(decision, Dispatch):
                self.router.report(decision, Outcome(total=0.1), self.now)
        self.now = end
        self.router.tick(self.now)

    @rule(index=st.integers(0, 9))
    def client_leaves(self, index):
        if self.held:
            key = list(self.held)[index % len(self.held)]
            asked, _ = self.held.pop(key)
            assert self.router.waiting.leave(asked) is not None

    @invariant()
    def nobody_is_lost_and_nobody_is_there_twice(self):
        made = self.router.waiting
        assert set(made._places) == set(self.held)
        flows = [flow for line in made.lines.values() for flow in line._flows.values()]
        assert sorted(id(place.request) for flow in flows for place in flow.places.values()) == sorted(self.held)
        assert all(line.count for line in made.lines.values())
        assert sum(line.count for line in made.lines.values()) == len(made)

    @invariant()
    def it_is_bounded(self):
        for line in self.router.waiting.lines.values():
            assert line.count <= 2 * self.MOST
            assert all(len(flow.keys) <= self.MOST for flow in line._flows.values())

    @invariant()
    def nobody_waits_longer_than_it_was_told_nor_beyond_its_deadline(self):
        for asked, until in self.held.values():
            place = self.router.waiting._places[id(asked)]
            assert place.until == until > self.now
            assert until < asked.deadline

    @invariant()
    def the_earliest_deadline_of_a_tenant_is_its_first(self):
        for line in self.router.waiting.lines.values():
            for flow in line._flows.values():
                deadlines = [due(flow.places[key].request) for key in flow.keys]
                assert deadlines == sorted(deadlines)


Held.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHeld = Held.TestCase
