import random
from types import SimpleNamespace

import msgspec
import pytest

from loadtests.simulator.contender import POLICY, Baseline, Shipped, Watching
from loadtests.simulator.contenders import product
from policies.config import P2CConfig, PolicyConfig
from policies.fleet import Fleet
from policies.request import Dispatch, LoadSeen, Outcome, Shed, WorkerSeen
from policies.router import Router
from tests import fleets


class Listener(Watching):
    def __init__(self):
        self.heard = []

    def pick(self, candidates, rng):
        self.heard.append(("pick", self.now))
        return next(iter(candidates.eligible.nonzero()[0].tolist()), None)

    def observed(self, change, now):
        self.heard.append((type(change).__name__, now))

    def sent(self, dispatch, now):
        self.heard.append(("sent", now))

    def settled(self, dispatch, outcome, now):
        self.heard.append(("settled", now))


def baseline(listener, rng):
    made = Baseline(listener, Fleet(rng), rng)
    made.observe(WorkerSeen(fleets.worker("w")), 1.0)
    return made


@pytest.fixture
def rng():

    return random.Random(1)


def asked(**fields):
    return fleets.request(policy=POLICY, **fields)


def test_a_baseline_hears_of_all_that_becomes_of_its_picks(rng):
    listener = Listener()
    made = baseline(listener, rng)
    made.observe(LoadSeen(fleets.load("w"), 0.0), 2.0)
    dispatch = made.route(asked(), 3.0)
    assert isinstance(dispatch, Dispatch)
    made.report(dispatch, Outcome(total=0.1), 4.0)
    assert listener.heard == [("WorkerSeen", 1.0), ("LoadSeen", 2.0), ("pick", 3.0), ("sent", 3.0), ("settled", 4.0)]
    assert made.open == 0


def test_what_is_refused_was_not_sent(rng):
    listener = Listener()
    assert isinstance(baseline(listener, rng).route(asked(model="nobody's"), 3.0), Shed)
    assert "sent" not in [what for what, _ in listener.heard]


def test_a_baseline_shares_accounting_and_retries_with_the_product(rng):
    made = baseline(Listener(), rng)
    dispatch = made.route(asked(deadline=10.0), 3.0)
    assert made.fleet.workers["w"].in_flight == 1
    assert isinstance(made.route(asked(deadline=10.0), 3.0, ["w"]), Shed), "there is no other worker"
    made.report(dispatch, Outcome(total=0.1), 4.0)
    assert made.fleet.workers["w"].in_flight == 0


def test_the_shipped_router_asks_for_nothing_beside_what_it_is_told(rng):
    made = product(PolicyConfig(P2CConfig()))(SimpleNamespace(rng=rng))
    assert isinstance(made, Shipped)
    assert made.probes() == ()
    assert Watching().probes() == ()


def test_the_shipped_router_has_probed_what_its_last_dispatch_names_within_the_budget(rng, monkeypatch):
    made = product(PolicyConfig(P2CConfig()))(SimpleNamespace(rng=rng))
    made.observe(WorkerSeen(fleets.worker("w")), 1.0)
    route = Router.route

    def curious(self, request, now, avoid=(), beside=None):
        decision = route(self, request, now, avoid, beside)
        return msgspec.structs.replace(decision, probes=("a", "b")) if isinstance(decision, Dispatch) else decision

    monkeypatch.setattr(Router, "route", curious)
    made.route(asked(), 3.0)
    assert made.probes() == ("a", "b")
    made.route(asked(), 3.01)
    assert made.probes() == (), "each was asked a hundredth of a second ago"
    made.route(asked(), 3.1)
    assert made.probes() == ("a", "b")
    made.route(asked(model="nobody's"), 9.0)
    assert made.probes() == ()
