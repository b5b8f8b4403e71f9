"""Nothing leaks: whatever happens, in whatever order, what was reserved is released."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from policies.reason import Reason
from policies.records import Curve
from policies.request import Dispatch, DrainSet, LoadSeen, Outcome, ProbeFailed, RoundTrip, WorkerGone, WorkerSeen
from tests.fleets import endpoint, load, request, router, worker

NAMES = ["a", "b", "c"]
FAILURES = ["UPSTREAM_LOST", "REFUSED", "CLIENT_GONE", "CONNECT_FAILED", "DEADLINE_EXCEEDED"]
REASONS = [None, *(Reason[name] for name in FAILURES)]
POINTS = (endpoint(curve=Curve(0.01, decode=0.001), max_batch=2), endpoint(model="other", curve=Curve(0.02)))

names, models = st.sampled_from(NAMES), st.sampled_from(["chat", "other"])


class Accounting(RuleBasedStateMachine):
    dispatches = Bundle("dispatches")

    def __init__(self):
        super().__init__()
        self.router = router(*(worker(name, endpoints=POINTS) for name in NAMES))
        self.now = 1.0
        self.seq = 10
        self.states = dict(self.router.fleet.workers)
        self.open = 0

    @rule(
        target=dispatches,
        model=st.sampled_from(["chat", "other"]),
        tokens=st.integers(0, 50),
        avoid=st.sets(st.sampled_from(NAMES)),
    )
    def route(self, model, tokens, avoid):
        asked = request(model=model, output_tokens=float(tokens), deadline=self.now + 10)
        decision = self.router.route(asked, self.now, tuple(avoid))
        self.open += isinstance(decision, Dispatch)
        return decision

    @rule(decision=consumes(dispatches), reason=st.sampled_from(REASONS), reported=st.booleans())
    def settle(self, decision, reason, reported):
        if isinstance(decision, Dispatch):
            times = {"first_byte": 0.05, "queue": 0.0, "prefill": 0.01, "accelerator": 0.01} if reported else {}
            self.router.report(decision, Outcome(reason=reason, total=0.06, **times), self.now)
            self.open -= 1

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
        self.router.observe(WorkerSeen(worker(name, boot=f"b{self.seq}", seq=self.seq, endpoints=POINTS)), self.now)
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
        assert sum(state.in_flight for state in self.states.values()) == self.open

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
    for state in r.fleet.workers.values():
        assert (state.in_flight, state._unseen, state._unseen_work) == (0, {}, 0.0)
