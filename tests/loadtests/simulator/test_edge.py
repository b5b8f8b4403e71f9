"""A simulated gateway does what the real one does: the same constants, limits and patience, the same retries."""

import random
from types import SimpleNamespace

import pytest

from gateway import routes
from gateway.edge import attempt
from loadtests.simulator import edge, serving
from loadtests.simulator.baselines.holding import InOrder
from loadtests.simulator.contender import POLICY, Baseline, Shipped, Watching
from loadtests.simulator.edge import limit, patience
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import Control, Fault, FaultKind, Nodes, Queue, Serving
from loadtests.workload import Class, Planned, Surface
from policies.admission import AdmissionConfig
from policies.balancers.cheapest_in_deadline import CheapestInDeadline
from policies.fleet import Fleet
from policies.hedge import HedgeConfig
from policies.reason import Reason
from policies.request import INFINITE, Dispatch, Eta, Hold, LoadSeen, Status
from policies.retry import RetryConfig
from policies.router import Policy
from tests import fleets
from tests.loadtests.simulator.worlds import world

NODES = tuple(Nodes(name=name, region="east", profiles=("slow",), usd_per_hour=1) for name in ("a", "b", "c"))
A, B, C = (f"east-{name}-0" for name in "abc")
PATIENT = Class(name="patient")
TIMED = Class(name="timed", total_s=3.0)
UNARY = Class(name="unary", total_s=20.0, surface=Surface.CHAT)


# The same rules as the gateway's.


def test_constants_are_the_gateways():
    for name in ("SPREADS", "SILENCE", "LONGER_ANSWERS", "STALL", "LONGEST"):
        assert getattr(edge, name) == getattr(attempt, name), name
    for name in ("TEXT_BYTES_PER_TOKEN", "EVENT_BYTES", "ENVELOPE_BYTES"):
        assert getattr(serving, name) == getattr(routes, name), name


@pytest.mark.parametrize("seed", range(50))
def test_an_attempt_has_as_long_as_in_the_gateway(seed):
    rng = random.Random(seed)
    eta = Eta(*(rng.expovariate(1.0) for _ in range(5)))
    request = fleets.request(
        deadline=rng.choice((INFINITE, 10 + rng.expovariate(0.3))), stream=rng.random() < 0.5, patience=60.0
    )
    status = rng.choice(list(Status))
    dispatch = Dispatch(request=request, node=None, at=10.0, attempt=1, status=status, eta=eta, cost=0.0)
    real = attempt.Attempt(None, dispatch, None, attempt.limit(dispatch))
    assert limit(dispatch) == real.limit
    job = SimpleNamespace(dispatch=dispatch, limit=limit(dispatch))
    assert patience(job) == pytest.approx(real.patience)


# What becomes of requests.


class Script(Watching):
    """Sends to the workers it is told, one after the other; those it has been told to hold wait."""

    def __init__(self, workers, hold=()):
        self.workers, self.hold, self.asked = list(workers), list(hold), []
        self.changes = []

    def pick(self, candidates, rng):
        if not self.workers:
            return None
        name = self.workers.pop(0)
        (slot,) = [node.slot for node in candidates.columns.nodes if node.worker.id == name]
        return slot if candidates.eligible[slot] else None

    def observed(self, change, now):
        self.changes.append((change, now))

    def probes(self):
        return self.asked


class Scripted(Baseline):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.waiting = InOrder()

    def route(self, request, now, avoid=(), beside=None):
        if self.balancer.hold:
            until = self.balancer.hold[0]
            if until is not None and now < until:
                self.waiting.join(request, until, now)
                return Hold(until)
            self.balancer.hold.pop(0)
        return super().route(request, now, avoid, beside)


def run(*kinds, script, at=1.0, seconds=30.0, prompt=100, output=10, **fields):
    """Requests a hundredth of a second apart, over three equal workers."""
    plan = [
        Planned(number, at + number / 100, kind, prompt, output, 1, 0, "east") for number, kind in enumerate(kinds)
    ]  # fmt: skip
    small = world(nodes=NODES, gateways=("east",), serving=Serving(noise=0), seconds=seconds, **fields)

    def make(setting):
        return Scripted(script, Fleet(setting.rng), setting.rng)

    simulation = Simulation(small, make, 1, plan)
    simulation.run()
    return simulation.ledger.calls


def fault(kind, *target, at=0.5):
    return Fault(kind=FaultKind(kind), at=at, target=target)


def test_an_answer_is_measured_from_the_first_byte_of_the_request():
    (call,) = run(PATIENT, script=Script([A]))
    assert call.tried == [A]
    assert call.first - call.request.arrived == pytest.approx(0.004 + 100 / 4000 + 0.001, abs=2e-3)
    assert call.ended - call.first == pytest.approx(9 * 0.0205, abs=2e-3)
    assert call.met


def test_a_unary_answer_is_there_when_it_is_whole():
    (call,) = run(UNARY, script=Script([A]))
    assert call.first == call.ended


def test_a_route_expects_the_mean_of_its_class_and_never_the_request_itself():
    plan = [Planned(n, 1.0 + n, kind, 10, size, 1, 0, "east") for n, (kind, size) in enumerate(
        [(PATIENT, 10), (PATIENT, 30), (TIMED, 50)]
    )]  # fmt: skip
    small = world(nodes=NODES, gateways=("east",))
    simulation = Simulation(small, lambda s: Scripted(Script([A, A, A]), Fleet(s.rng), s.rng), 1, plan)
    simulation.run()
    assert [call.request.output_tokens for call in simulation.ledger.calls] == [20.0, 20.0, 50.0]


@pytest.mark.parametrize("trouble", ["outage", "black_hole", "reclaim"])
def test_what_was_not_answered_goes_to_another_worker(trouble):
    (call,) = run(TIMED, script=Script([A, B]), faults=(fault(trouble, A, at=0.999),))  # too late to be heard of
    assert (call.tried, call.attempts, call.worker.id, call.met) == ([A, B], 2, B, True)


def test_three_attempts_are_all():
    (call,) = run(TIMED, script=Script([A, B, C, A]), faults=(fault("black_hole", A, B, C),))
    assert (call.tried, call.reason, call.met) == ([A, B, C], Reason.UPSTREAM_ERROR, False)


def test_a_silent_worker_is_left_after_its_patience_and_told_so():
    (call,) = run(TIMED, script=Script([A, B]), faults=(fault("silent", A),))
    assert call.tried == [A, B]
    assert call.met
    # Half of the three seconds is the least that is granted, the prediction of a node never measured allows no more.
    assert 1.0 + 1.5 <= call.ended < 4.0


def test_without_another_worker_silence_is_waited_out_until_the_deadline():
    script = Script([A])
    small = {"nodes": NODES[:1]}
    plan = [Planned(0, 1.0, TIMED, 100, 10, 1, 0, "east")]
    simulation = Simulation(
        world(gateways=("east",), seconds=30.0, faults=(fault("silent", A),), **small),
        lambda s: Scripted(script, Fleet(s.rng), s.rng), 1, plan,
    )  # fmt: skip
    simulation.run()
    (call,) = simulation.ledger.calls
    assert (call.reason, call.ended) == (Reason.DEADLINE_EXCEEDED, pytest.approx(4.0))


def test_a_stream_that_has_begun_is_not_repeated():
    (call,) = run(TIMED, script=Script([A, B]), output=100, faults=(fault("outage", A, at=1.5),))
    assert (call.tried, call.reason) == ([A], Reason.STREAM_INTERRUPTED)
    assert call.first is not None


def test_a_stream_cut_off_on_the_way_is_lost_after_a_stall():
    cut = Fault(kind=FaultKind.PARTITION, at=1.5, target=("west",), away_from=("east",))
    nodes = (*NODES[:1], Nodes(name="w", region="west", profiles=("slow",), usd_per_hour=1))
    plan = [Planned(0, 1.0, PATIENT, 100, 100, 1, 0, "east")]
    simulation = Simulation(
        world(nodes=nodes, gateways=("east",), seconds=70.0, faults=(cut,)),
        lambda s: Scripted(Script(["west-w-0"]), Fleet(s.rng), s.rng), 1, plan,
    )  # fmt: skip
    simulation.run()
    (call,) = simulation.ledger.calls
    assert call.reason is Reason.STREAM_INTERRUPTED
    assert edge.STALL < call.ended - 1.0 < 3 * edge.STALL


def test_a_worker_that_drops_late_work_says_that_nothing_was_executed():
    tight = Class(name="tight", first_token_s=0.05)
    plan = [Planned(n, 1.0, tight, 100, 1, 1, 0, "east") for n in range(4)]
    simulation = Simulation(
        world(nodes=NODES[:1], gateways=("east",), serving=Serving(noise=0, queue=Queue.EDF)),
        lambda s: Scripted(Script([A] * 4), Fleet(s.rng), s.rng), 1, plan,
    )  # fmt: skip
    simulation.run()
    calls = simulation.ledger.calls
    late = [call for call in calls if call.reason is Reason.DEADLINE_EXCEEDED]
    assert (len(late), sum(call.met for call in calls)) == (3, 1)
    assert all(call.usd == 0.0 for call in late)


def test_a_held_request_is_routed_again_when_its_time_has_come():
    script = Script([A], hold=[2.5])
    (call,) = run(TIMED, script=script, control=Control(heartbeat_s=100, probe_s=100))
    assert call.job.dispatch.at == pytest.approx(2.5)
    assert call.met


def test_held_requests_go_in_the_order_they_came_as_soon_as_something_changes():
    script = Script([A, A, A], hold=[9.0, None, None, None])

    class Opened(Scripted):
        """Holds until a load report has come."""

        def observe(self, change, now):
            if isinstance(change, LoadSeen) and now > 2.0:
                self.balancer.hold = []
            super().observe(change, now)

    plan = [Planned(n, 1.0 + n / 100, TIMED, 100, 10, 1, 0, "east") for n in range(3)]
    simulation = Simulation(
        world(nodes=NODES, gateways=("east",)), lambda s: Opened(script, Fleet(s.rng), s.rng), 1, plan
    )
    simulation.run()
    at = [call.job.dispatch.at for call in simulation.ledger.calls]
    assert at == sorted(at)
    assert 2.0 < at[0] < 3.1
    assert at[-1] - at[0] < 0.01, "one change frees all it can"


def test_a_held_request_whose_deadline_passes_is_told_so():
    (call,) = run(TIMED, script=Script([A], hold=[50.0]), control=Control(heartbeat_s=100, probe_s=100))
    assert (call.reason, call.ended, call.tried) == (Reason.DEADLINE_EXCEEDED, pytest.approx(4.0), [])


def test_a_contenders_probes_come_back_as_loads():
    script = Script([A])
    script.asked = [B, C]
    run(PATIENT, script=script, control=Control(heartbeat_s=1000, probe_s=1000, on_responses=False))
    seen = [(change.load.worker, at) for change, at in script.changes if isinstance(change, LoadSeen) and at > 1.0]
    assert sorted(name for name, _ in seen)[:2] == [B, C]
    assert all(1.0 < at < 1.01 for _, at in seen[:2])


def test_answers_carry_loads_where_the_world_wants_that():
    script = Script([A])
    run(PATIENT, script=script, control=Control(heartbeat_s=1000, probe_s=1000, on_responses=True))
    seen = [change.load for change, at in script.changes if isinstance(change, LoadSeen) and at > 1.0]
    assert [(load.worker, load.running) for load in seen] == [(A, 1), (A, 0)]


@pytest.mark.parametrize(
    ("kind", "met"),
    [
        (Class(name="x", first_token_s=0.035, total_s=0.3), True),
        (Class(name="x", first_token_s=0.02), False),
        (Class(name="x", token_interval_s=0.0206), True),
        (Class(name="x", token_interval_s=0.02), False),
    ],
)  # fmt: skip
def test_every_deadline_of_a_request_counts(kind, met):
    (call,) = run(kind, script=Script([A]))
    assert call.reason is None
    assert call.met == met


# Hedges.


def hedged(kind, *faults, leaves=None, nodes=NODES, output=10):
    """One request to the cheapest of three workers, by the product's router with a policy that hedges."""

    def make(setting):
        policy = Policy(CheapestInDeadline(), AdmissionConfig(), RetryConfig(), HedgeConfig(share=1.0))
        return Shipped(Fleet(setting.rng), {POLICY: policy}, setting.rng)

    plan = [Planned(0, 5.0, kind, 1200, output, 1, 0, "east")]
    small = world(nodes=nodes, gateways=("east",), serving=Serving(noise=0), seconds=30.0, faults=faults)
    simulation = Simulation(small, make, 1, plan)
    if leaves is not None:
        simulation.timeline.at(leaves, lambda _: simulation.edges[0].hang_up(simulation.ledger.calls[0]), None)
    simulation.run()
    (call,) = simulation.ledger.calls
    assert simulation.edges[0].contender.open == 0
    for worker in simulation.workers.values():
        assert (worker.running, worker.waiting) == (0, 0)
    return call, simulation


CHEAP_A = tuple(Nodes(name=n, region="east", profiles=("slow",), usd_per_hour=1 + (n != "a")) for n in "abc")
HASTY = Class(name="hasty", first_token_s=0.87)
"""Too tight to be sure that a worker is stuck and send it again: its first token takes 0.3 s."""


def stuck(kind, lasts, factor=1.0):
    return Fault(kind=FaultKind(kind), at=4.9, lasts=lasts, target=(A,), factor=factor)


def test_a_silent_worker_is_hedged_and_its_work_is_called_off():
    call, simulation = hedged(HASTY, stuck("slow", 9.0, 10.0), nodes=CHEAP_A)
    assert call.tried[0] == A
    assert (call.attempts, call.hedges, len(call.tried)) == (2, 1, 2)
    assert call.met
    assert call.worker.id != A
    assert not call.predicted_met, "its first dispatch did not meet it"
    assert 0.3 < simulation.workers[A].busy_s < 0.87, "until the other's first token"


def test_the_first_may_still_win_and_the_hedge_is_called_off():
    call, simulation = hedged(HASTY, stuck("slow", 9.0, 2.0), nodes=CHEAP_A)
    assert (call.attempts, call.hedges) == (2, 1)
    assert (call.worker.id, call.met, call.predicted_met) == (A, True, True)
    hedge = call.tried[1]
    assert 0.0 < simulation.workers[hedge].busy_s < 0.3


def test_when_the_first_is_lost_the_hedge_goes_on():
    dies = Fault(kind=FaultKind.OUTAGE, at=5.55, lasts=30.0, target=(A,))
    call, _ = hedged(HASTY, stuck("slow", 9.0, 10.0), dies, nodes=CHEAP_A)
    assert (call.attempts, call.hedges) == (2, 1)
    assert call.met


def test_a_client_that_leaves_calls_both_off():
    call, simulation = hedged(HASTY, stuck("slow", 9.0, 10.0), nodes=CHEAP_A, leaves=5.6)
    assert (call.attempts, call.hedges, call.reason) == (2, 1, Reason.CLIENT_GONE)
    assert all(worker.busy_s < 0.75 for worker in simulation.workers.values())


def test_who_is_in_time_is_not_hedged():
    call, _ = hedged(HASTY, nodes=CHEAP_A)
    assert (call.attempts, call.hedges, call.met) == (1, 0, True)
