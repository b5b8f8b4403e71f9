"""Heartbeats on their way, leases and probes: the rules of gateway/roster.py and gateway/probes.py, in virtual time."""

from itertools import pairwise

import pytest

from gateway import probes, roster
from gateway import registry as real
from loadtests.simulator import registry
from loadtests.simulator.contender import Baseline, Watching
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import Control, Fault, FaultKind, Nodes
from loadtests.workload import Class, Planned
from policies.fleet import Fleet
from policies.request import LoadSeen, ProbeFailed, RoundTrip, WorkerGone, WorkerSeen
from tests.loadtests.simulator.worlds import world

LAST = Class(name="last")


class Diary(Watching):
    def __init__(self):
        self.pages = []

    def pick(self, candidates, rng):
        return None

    def observed(self, change, now):
        self.pages.append((change, now))

    def of(self, kind):
        return [(change, at) for change, at in self.pages if isinstance(change, kind)]


class First(Diary):
    """Sends everything to the first worker it can."""

    def pick(self, candidates, rng):
        return next(iter(candidates.eligible.nonzero()[0].tolist()), None)


def watch(seconds=20.0, gateways=("east",), *faults, **fields):
    """What the first gateway hears in so many seconds. The one request at the end keeps everything going."""
    diaries = [Diary() for _ in gateways]
    free = list(diaries)
    plan = [Planned(0, seconds - 0.001, LAST, 1, 1, 1, 0, gateways[0])]
    simulation = Simulation(
        world(gateways=gateways, seconds=seconds, faults=faults, **fields),
        lambda s: Baseline(free.pop(0), Fleet(s.rng), s.rng), 1, plan,
    )  # fmt: skip
    simulation.run()
    return simulation, diaries[0]


def fault(kind, *target, at=5.0, lasts=1e9):
    return Fault(kind=FaultKind(kind), at=at, lasts=lasts, target=target)


def test_constants_are_the_gateways():
    assert registry.SWEEP_S == real.SWEEP_SECONDS
    assert registry.FATAL_PROBES == roster.FATAL_PROBES
    assert registry.PROBES_PER_SECOND == probes.PROBES_PER_SECOND
    assert (registry.MIN_PROBE_TIMEOUT_S, registry.PROBE_TIMEOUT_RTTS) == (probes.MIN_TIMEOUT, probes.TIMEOUT_RTTS)


def test_every_worker_is_known_at_once_and_heard_every_heartbeat():
    _, diary = watch(control=Control(heartbeat_s=0.5, on_probes=False))
    assert len(diary.of(WorkerSeen)) == 9
    for name in ("east-fast-0", "far-slow-1"):
        at = [at for change, at in diary.of(LoadSeen) if change.load.worker == name]
        assert len(at) in (39, 40)
        assert {round(b - a, 1) for a, b in pairwise(at)} == {0.5}


def test_the_word_of_a_registry_beside_everybody_takes_no_way():
    first = {}
    for nearby in (False, True):
        _, diary = watch(control=Control(nearby=nearby, on_probes=False))
        first[nearby] = next(at for change, at in diary.of(LoadSeen) if change.load.worker == "far-fast-0")
    assert first[False] - first[True] == pytest.approx(0.1105, rel=0.05)  # a leg


def test_what_the_registry_says_is_taken_as_new_what_a_probe_says_as_half_its_round_trip_old():
    _, diary = watch(control=Control(on_probes=False))
    assert {change.age for change, _ in diary.of(LoadSeen)} == {0.0}
    _, diary = watch(control=Control(heartbeat_s=1000.0))
    trips = {at: change.seconds for change, at in diary.of(RoundTrip) if change.worker_id == "far-fast-0"}
    ages = {at: change.age for change, at in diary.of(LoadSeen) if change.load.worker == "far-fast-0" and change.age}
    assert len(ages) >= 15
    assert ages == {at: trips[at] / 2 for at in ages}


def test_heartbeats_get_lost_as_often_as_the_world_says():
    _, diary = watch(200.0, control=Control(loss=0.3, lease_s=1000, on_probes=False))
    assert len(diary.of(LoadSeen)) == pytest.approx(9 * 200 * 0.7, abs=4 * (1800 * 0.21) ** 0.5)


def test_every_worker_is_probed_about_once_a_second_by_every_gateway():
    simulation, diary = watch(30.0)
    trips = [change.seconds for change, _ in diary.of(RoundTrip) if change.worker_id == "far-fast-0"]
    assert 24 <= len(trips) <= 31
    assert min(trips) > 0.22
    assert simulation.edges[0].heard == len(diary.pages)


def test_a_large_fleet_is_probed_less_often():
    many = Nodes(name="many", region="east", profiles=("fast",), usd_per_hour=1, count=800)
    _, diary = watch(10.0, nodes=(many,), control=Control(heartbeat_s=1000.0))
    at = [at for change, at in diary.of(RoundTrip) if change.worker_id == "east-many-0"]
    assert all(0.8 * 4 <= b - a <= 1.2 * 4 + 0.1 for a, b in pairwise(at)), "800 of them at 200 a second"
    assert len(diary.of(RoundTrip)) < 800 * 4


def test_one_silent_worker_leaves_when_its_lease_ends():
    _, diary = watch(20.0, ("east",), fault("outage", "east-fast-0"))
    ((gone, at),) = diary.of(WorkerGone)
    assert gone.worker_id == "east-fast-0"
    # Its last heartbeat came up to a second before; a sweep looks four times a second.
    assert 5.0 + 2.0 <= at <= 5.0 + 3.0 + 0.3
    assert all(change.worker_id == "east-fast-0" for change, _ in diary.of(ProbeFailed))


def test_most_of_a_region_silent_is_doubted_until_probes_fail_too():
    _, diary = watch(20.0, ("east",), fault("outage", "east"))
    gone = [at for _, at in diary.of(WorkerGone)]
    assert len(gone) == 3
    # After the lease at least two probes more, a second apart each.
    assert min(gone) > 5.0 + 3.0


def test_a_registry_that_is_known_to_be_silent_ends_no_lease():
    _, diary = watch(30.0, ("east",), fault("registry", "east", "west", "far", lasts=20.0))
    assert not diary.of(WorkerGone)
    silent = [at for change, at in diary.of(LoadSeen) if 5.5 < at < 25.0 and not change.age]  # by the registry's word
    assert not silent
    assert [at for _, at in diary.of(LoadSeen) if at > 25.0]


def test_probes_beyond_a_cut_time_out_and_the_lease_ends():
    _, diary = watch(20.0, ("east",), Fault(kind=FaultKind.PARTITION, at=5.0, target=("far",)))
    failed = [at for change, at in diary.of(ProbeFailed) if change.worker_id == "far-fast-0"]
    assert len(failed) >= 3
    assert {change.worker_id for change, _ in diary.of(WorkerGone)} == {"far-fast-0", "far-slow-0", "far-slow-1"}


def test_who_comes_back_is_seen_again_with_a_new_boot():
    _, diary = watch(30.0, ("east",), fault("outage", "east-fast-0", lasts=10.0))
    seen = [(change.worker.boot, at) for change, at in diary.of(WorkerSeen) if change.worker.id == "east-fast-0"]
    assert [boot for boot, _ in seen] == ["b1", "b2"]
    assert seen[1][1] == pytest.approx(15.0, abs=0.1)


def test_reclaimed_capacity_says_goodbye():
    _, diary = watch(45.0, ("east",), fault("reclaim", "east-fast-0"))
    ((_, at),) = diary.of(WorkerGone)
    assert at == pytest.approx(35.0, abs=0.1), "no lease is waited for"
    draining = [change.load.draining for change, at in diary.of(LoadSeen) if change.load.worker == "east-fast-0"]
    assert draining.count(True) > 25


def test_a_cold_start_registers_when_its_time_has_come():
    late = Nodes(name="late", region="east", profiles=("fast",), usd_per_hour=1, from_s=7.0)
    _, diary = watch(20.0, nodes=(*world().nodes, late))
    ((_, at),) = [(c, at) for c, at in diary.of(WorkerSeen) if c.worker.id == "east-late-0"]
    assert at == pytest.approx(7.0, abs=0.1)


def test_early_reports_come_when_the_wait_crosses_an_edge_and_not_more_often_than_allowed():
    def reports(early):
        diary = First()
        plan = [Planned(n, 1.0 + n / 100, LAST, 4000, 1, 1, 0, "east") for n in range(50)]
        control = Control(heartbeat_s=5.0, early=early, on_responses=False, on_probes=False)
        Simulation(
            world(gateways=("east",), control=control, nodes=world().nodes[:1]),
            lambda s: Baseline(diary, Fleet(s.rng), s.rng), 1, plan,
        ).run()  # fmt: skip
        return [at for change, at in diary.of(LoadSeen) if 1.0 < at < 3.0]

    assert len(reports(early=False)) <= 1
    at = reports(early=True)
    assert len(at) >= 4
    assert min(b - a for a, b in pairwise(at)) > 0.045


def test_when_nothing_is_left_to_decide_the_control_plane_rests():
    """A stream that has begun needs no heartbeats."""
    diary = First()
    plan = [Planned(0, 5.0, LAST, 10, 5000, 1, 0, "east")]
    simulation = Simulation(
        world(gateways=("east",), control=Control(on_responses=False, on_probes=False)),
        lambda s: Baseline(diary, Fleet(s.rng), s.rng), 1, plan,
    )  # fmt: skip
    simulation.run()
    (call,) = simulation.ledger.calls
    assert call.ended > 30.0
    assert max(at for _, at in diary.pages) < 7.0
