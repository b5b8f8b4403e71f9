"""Nothing leaks: whatever happens, in whatever order, what was reserved is released, hedged pairs included."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from policies.config import PolicyConfig
from policies.hedge import HedgeConfig
from policies.reason import Reason
from policies.records import Curve
from policies.request import (
    INFINITE,
    Dispatch,
    DrainSet,
    Hold,
    LoadSeen,
    Outcome,
    ProbeFailed,
    RoundTrip,
    WorkerGone,
    WorkerSeen,
)
from tests.fleets import endpoint, load, request, router, worker

NAMES = ["a", "b", "c"]
FAILURES = ["UPSTREAM_LOST", "REFUSED", "CLIENT_GONE", "CONNECT_FAILED", "DEADLINE_EXCEEDED", "OUTRUN"]
REASONS = [None, *(Reason[name] for name in FAILURES)]
POINTS = (endpoint(curve=Curve(0.01, decode=0.001), max_batch=2), endpoint(model="other", curve=Curve(0.02)))

HEDGING = PolicyConfig(hedge=HedgeConfig(share=1.0, worth=1e6))
"""One that sends every hedge it may."""

names, models = st.sampled_from(NAMES), st.sampled_from(["chat", "other"])


def hedgeable(decision) -> bool:
    return isinstance(decision, Dispatch) and decision.hedge_at < INFINITE


class Accounting(RuleBasedStateMachine):
    dispatches = Bundle("dispatches")

    def __init__(self):
        super().__init__()
        self.router = router(*(worker(name, endpoints=POINTS, region=name) for name in NAMES), house=HEDGING)
        self.policy = self.router._policies["house"]
        self.now = 1.0
        self.seq = 10
        self.states = dict(self.router.fleet.workers)
        self.open = self.repeats = 0

    @rule(
        target=dispatches,
        model=st.sampled_from(["chat", "other"]),
        tokens=st.integers(0, 50),
        avoid=st.sampled_from([(), (), (), ("a",), ("b", "c")]),
        budget=st.sampled_from([0.2, 2.0, 10.0]),
        stream=st.booleans(),
    )
    def route(self, model, tokens, avoid, budget, stream):
        asked = request(model=model, output_tokens=float(tokens), deadline=self.now + budget, stream=stream)
        decision = self.router.route(asked, self.now, avoid)
        self._count(decision, 1)
        return decision

    @rule(target=dispatches, first=dispatches.filter(hedgeable))
    def hedge(self, first):
        """The silent dispatch may be one that was routed long ago, at a worker that has left or rebooted since."""
        tried = (first.node.worker.id,)
        self.now = max(self.now, first.hedge_at)
        decision = self.router.route(first.request, self.now, tried, first)
        if isinstance(decision, Hold):
            self.now = decision.until
            decision = self.router.route(first.request, self.now, tried, first)
        assert not isinstance(decision, Dispatch) or (decision.hedge and decision.node.worker.id not in tried)
        self._count(decision, 1)
        return decision

    def _count(self, decision, by):
        if isinstance(decision, Dispatch):
            self.open += by
            self.repeats += by * (decision.attempt > 1 and not decision.hedge)

    @rule(decision=consumes(dispatches), reason=st.sampled_from(REASONS), reported=st.booleans())
    def settle(self, decision, reason, reported):
        if isinstance(decision, Dispatch):
            times = {"first_byte": 0.05, "queue": 0.0, "prefill": 0.01, "accelerator": 0.01} if reported else {}
            self.router.report(decision, Outcome(reason=reason, total=0.06, **times), self.now)
            self._count(decision, -1)

    @rule(seconds=st.floats(0.001, 2.0))
    def wait(self, seconds):
        self.now += seconds
        self.router.tick(self.now)

    @rule(name=st.sampled_from(NAMES), waiting=st.integers(0, 9), age=st.floats(0, 1))
    def heartbeat(self, name, waiting, age):
        self.seq += 1
        record = self.router.fleet.workers.get(name)
        boot = record.record.boot if record else "b1"
        self.router.observe(
            LoadSeen(load(name, self.seq, boot=boot, waiting=waiting, backlog=waiting * 0.01), age), self.now
        )

    @rule(name=st.sampled_from(NAMES))
    def reboot(self, name):
        self.seq += 1
        booted = worker(name, boot=f"b{self.seq}", seq=self.seq, endpoints=POINTS, region=name)
        self.router.observe(WorkerSeen(booted), self.now)
        self.states.setdefault(name, self.router.fleet.workers[name])

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name):
        self.router.observe(WorkerGone(name), self.now)
        state = self.states.pop(name, None)
        if state is not None:
            self.states[f"{name}-{self.seq}-{len(self.states)}"] = state

    @rule(name=st.sampled_from(NAMES), on=st.booleans())
    def drain(self, name, on):
        self.router.observe(DrainSet(name, on), self.now)

    @rule(name=st.sampled_from(NAMES), ok=st.booleans())
    def probe(self, name, ok):
        self.router.observe(RoundTrip(name, 0.01) if ok else ProbeFailed(name), self.now)

    @invariant()
    def in_flight_adds_up(self):
        assert self.router.open == self.open
        assert sum(state.in_flight for state in self.states.values()) == self.open == self.policy.in_flight
        assert self.policy.budget._in_flight == self.repeats, "a hedge takes no repeat and returns none"

    @invariant()
    def nothing_is_negative_or_not_a_number(self):
        for state in self.router.fleet.workers.values():
            assert state.wait(self.now) >= 0.0
            assert state.outstanding(self.now) >= 0
        for node in self.router.fleet.nodes():
            eta = node.eta(request(output_tokens=10), self.now)
            assert eta.spread >= 0.0
            assert eta.total == eta.total

    @invariant()
    def ejections_stay_below_the_cap(self):
        out = sum(state.health.state.value == "ejected" for state in self.router.fleet.workers.values())
        assert out <= max(1, len(NAMES) // 2)


Accounting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounting = Accounting.TestCase


@pytest.mark.parametrize("seed", range(20))
def test_an_idle_fleet_is_exactly_idle_again(seed):
    rng, r = random.Random(seed), router(*(worker(name, endpoints=POINTS) for name in NAMES))
    sent = [r.route(request(output_tokens=rng.uniform(0, 99)), 0.0) for _ in range(200)]
    rng.shuffle(sent)
    for dispatch in sent:
        r.report(dispatch, Outcome(reason=rng.choice([None, Reason.UPSTREAM_LOST])), 0.0)
    assert_idle(r)


@pytest.mark.parametrize("seed", range(20))
def test_a_fleet_is_exactly_idle_again_after_hedges(seed):
    rng, r = random.Random(seed), router(*(worker(name, endpoints=POINTS) for name in NAMES), house=HEDGING)
    sent = [r.route(request(deadline=3.0, output_tokens=rng.uniform(0, 9)), 0.0) for _ in range(30)]
    asked = [r.route(first.request, 2.9, (first.node.worker.id,), first) for first in sent]
    hedges = [hedge for hedge in asked if isinstance(hedge, Dispatch)]
    assert len(hedges) > 5
    pairs = sent + hedges
    rng.shuffle(pairs)
    for dispatch in pairs:
        r.report(dispatch, Outcome(reason=rng.choice([None, Reason.UPSTREAM_LOST, Reason.OUTRUN])), 3.0)
    assert_idle(r)


def assert_idle(r):
    for state in r.fleet.workers.values():
        assert (state.in_flight, state._unseen, state._unseen_work) == (0, {}, 0.0)
