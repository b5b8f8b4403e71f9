"""Held requests at the edge: each ends exactly once, whatever ends it, and the line is empty afterwards."""

import random

import pytest

from gateway.edge.state import HELD
from gateway.edge.stay import release
from policies.admission import AdmissionConfig
from policies.config import PolicyConfig
from policies.request import Infeasible, LoadSeen
from policies.router import Router
from tests.fleets import load
from tests.playbook import (
    ANSWER,
    CHAT,
    Edge,
    Playbook,
    client,
    client_leaves,
    client_sees,
    client_sees_nothing,
    post,
    reply,
    reported,
    seconds,
    upstream,
    upstream_says,
)

HOLD = (Infeasible.HOLD, Infeasible.REJECT)
ASKED = post(CHAT, b"X-Deadline-Ms: 2000")
EXPLAINED = post(CHAT, b"X-Deadline-Ms: 2000", b"X-Route-Explain: 1")


class Busy(Edge):
    """One worker, behind a queue of ten seconds."""

    def __init__(self, backlog: float = 10.0, wants: tuple[Infeasible, ...] = HOLD) -> None:
        super().__init__("a")
        self.routes.defaults = {"when_infeasible": wants}
        self.seq = 10
        self.queue(backlog)

    def queue(self, backlog: float) -> None:
        self.seq += 1
        figures = load("a", self.seq, waiting=int(100 * backlog), running=1 if backlog else 0, backlog=backlog)
        self.router.observe(LoadSeen(figures, 0.0), self.clock())

    def free(self) -> None:
        """The queue is gone, and those who drive the router say so."""
        self.queue(0.0)
        release(self.plane, self.clock())

    def refresh(self) -> None:
        """The queue is as long as ever."""
        self.queue(10.0)

    @property
    def settled(self) -> bool:
        return not (self.plane.stays or self.router.waiting.lines or len(self.router.waiting) or self.unreported)

    def counted(self) -> dict[str, int]:
        return {how: count for how in ("sent", "refused", "left") if (count := self.telemetry.value(f"held.{how}"))}


@pytest.fixture
def busy() -> Busy:
    return Busy()


def test_it_waits_and_goes_when_there_is_room(busy: Busy) -> None:
    script = Playbook(busy) >> client(EXPLAINED) << client_sees_nothing() >> seconds(0.5) << client_sees_nothing()
    (stay,) = busy.plane.stays.values()
    assert stay._exchange.state is HELD
    assert repr(stay).endswith("ended>") is False
    busy.free()
    assert (
        script
        << upstream("a", b"POST ")
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"200 OK", b"Server-Timing: hold;dur=5", ANSWER)
        << reported("a", None)
    )
    assert busy.settled
    assert busy.counted() == {"sent": 1}
    assert b"isochrone_held_seconds_sum 0.5" in busy.telemetry.page()
    (trace,) = busy.ring.recent(1)
    assert trace.held == pytest.approx(0.5, abs=0.06)


def test_one_that_ends_makes_room_for_the_next(busy: Busy) -> None:
    busy.queue(0.0)
    policy = PolicyConfig(admission=AdmissionConfig(max_in_flight=1)).build()
    busy.router._policies = {"house": policy}
    first = Playbook(busy) >> client(ASKED) << upstream("a", b"POST ")
    busy.connect()
    assert Playbook(busy) >> client(ASKED) << client_sees_nothing()
    assert len(busy.plane.stays) == 1
    assert first >> upstream_says("a", reply(ANSWER))
    assert Playbook(busy) << upstream("a", b"POST ") >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")
    assert busy.settled


def test_when_the_wait_is_over_the_client_is_told_when_to_come_back(busy: Busy) -> None:
    script = Playbook(busy) >> client(ASKED) >> seconds(1.0)
    busy.refresh()
    assert (
        script
        << client_sees_nothing()
        >> seconds(1.0)
        << client_sees(b"429", b"retry-after: 9", b"deadline_infeasible")
    )
    assert busy.settled
    assert busy.counted() == {"refused": 1}


def test_or_it_is_tried_without_a_promise() -> None:
    busy = Busy(wants=(Infeasible.HOLD, Infeasible.BEST_EFFORT))
    script = Playbook(busy) >> client(ASKED) << client_sees_nothing() >> seconds(2.0)
    assert script << upstream("a", b"POST ") >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK")
    assert busy.settled


def test_no_longer_than_the_client_wants_to_wait(busy: Busy) -> None:
    busy.routes.defaults["max_wait"] = 0.3
    script = Playbook(busy) >> client(ASKED) << client_sees_nothing() >> seconds(0.4)
    assert script << client_sees(b"429")


def test_a_client_that_leaves_gives_up_its_place(busy: Busy) -> None:
    script = Playbook(busy) >> client(ASKED) << client_sees_nothing() >> client_leaves()
    assert busy.settled
    assert busy.counted() == {"left": 1}
    busy.free()
    assert script >> seconds(3.0) << client_sees_nothing()
    assert not busy.outcomes
    assert busy.telemetry.value("edge.cancelled") == 1


def test_a_full_line_is_the_next_step(busy: Busy) -> None:
    busy.router._policies = {"house": PolicyConfig(admission=AdmissionConfig(max_held=1)).build()}
    Playbook(busy) >> client(ASKED) << client_sees_nothing()
    busy.connect()
    assert Playbook(busy) >> client(ASKED) << client_sees(b"429", b"deadline_infeasible")
    assert len(busy.plane.stays) == 1


def test_a_reload_keeps_those_it_finds_even_if_their_policy_is_gone(busy: Busy) -> None:
    script = Playbook(busy) >> client(ASKED) << client_sees_nothing()
    new = Router(busy.router.fleet, {}, random.Random(1))
    new.adopt(busy.router)
    busy.plane.router = new
    busy.free()
    assert script << upstream("a", b"POST ") >> upstream_says("a", reply(ANSWER)) << client_sees(b"200 OK", ANSWER)
    assert busy.settled


def test_a_fault_of_ours_is_an_ending_too(busy: Busy) -> None:
    script = Playbook(busy) >> client(ASKED) << client_sees_nothing()

    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    busy.router.route = fails  # type: ignore[method-assign,assignment]
    busy.free()
    assert script << client_sees(b"500")
    assert busy.settled
    assert busy.counted() == {"left": 1}


def test_a_crowd_of_refusals_does_not_recurse(busy: Busy) -> None:
    for _ in range(200):
        busy.connect()
        Playbook(busy) >> client(ASKED) << client_sees_nothing()
    assert len(busy.plane.stays) == 200
    busy.pass_time(1.5)
    busy.refresh()
    busy.pass_time(0.6)
    assert busy.settled
    assert busy.counted() == {"refused": 200}
    assert not busy.telemetry.value("edge.faults")


def test_an_ended_stay_ends_no_more(busy: Busy) -> None:
    Playbook(busy) >> client(ASKED) << client_sees_nothing()
    (stay,) = busy.plane.stays.values()
    stay.end("left", busy.clock() + 1.0)
    stay.end("sent", busy.clock() + 9.0)
    assert (stay.seconds, busy.counted()) == (1.0, {"left": 1})
    assert repr(stay) == f"<Stay of {stay.request.id} ended>"
