"""A worker as this gateway knows it: its records, health, round trips, and our own requests on it.

What its nodes share. A load report is corrected by what we sent since it was taken and by what others may have sent;
`wait`, `headroom` and `outstanding` are what follows. node.py says what a request would take and cost there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from policies.estimate import Overhead, RoundTrips
from policies.health import Event, Health, HealthConfig, State
from policies.records import Load, Worker
from policies.request import Dispatch

if TYPE_CHECKING:
    from policies.node import Node

KNEE = 0.15
"""Seconds of wait up to which a node has room (algorithm.md 2.6): beyond it a queue is felt by tight deadlines."""
FRESH_SECONDS = 0.05
"""A load so young (beside its way here) is not asked for: 20 answers a second of one worker are enough."""
WORTH_ASKING = 0.005
"""Seconds of strangers' work, unseen, that make a load worth asking for."""
MIN_HEADROOM = 0.05
"""Requests that even a full node counts as room for, so that shares of room are never 0 over 0."""
STRANGERS_SECONDS = 3.0
"""Time constant of the rate at which others send to a worker: long against heartbeats, short against load swings."""
WAIT_ERROR = 0.2
"""Spread per second of predicted wait (algorithm.md 2.3)."""
IDLE_ARRIVALS = 0.3
"""Share of its capacity a worker is assumed to receive unseen from others: what keeps an idle-looking cheap node from
claiming certainty and being herded on (algorithm.md 2.3)."""
SHORTEST_SPAN = 0.2
"""Seconds between two counts of arrivals that say something of a rate."""
SERVICE_GAIN = 0.02
"""Gain of a worker's mean service time: the last fifty requests of ours."""
SERVICE_PRIOR = 2
"""What the curve's typical request weighs against the first ones: little, since nobody knows how long prompts are. A
gateway that sends one a second would else believe a wrong guess for a minute, also about what strangers have sent."""
HALF_LIFE = 60.0
"""Seconds without answers after which half of what was learned is forgotten."""
FADE_EVERY = 5.0
"""Seconds between two steps of that: a twelfth of the half-life is smooth enough."""
STALE_LOAD_SECONDS = 3.0
"""A load report older than this (three heartbeats) says nothing; own in-flight counts serve."""


SERVING = State.SERVING


def faded(idle: float) -> float:
    """The share of what was learned that is forgotten after so many seconds without answers."""
    return 1.0 - math.exp2(-idle / HALF_LIFE)


class WorkerState:
    """One worker: its record, its last load, its health, and our own requests in flight on it."""

    def __init__(self, record: Worker, health: HealthConfig, prior: RoundTrips | None) -> None:
        self.record = record
        self.load: Load | None = None
        self.load_at = -math.inf
        """When the load's figures were true, on our clock."""
        self.health = Health(health)
        self.rtt = RoundTrips(prior)
        self.overhead = Overhead()
        self.nodes: list[Node] = []
        self.slots = 1
        """Requests its engine works on at once."""
        self._free = 0
        """Of these, the free ones when the load was taken, if nothing waited then, and those of ours freed since."""
        self.drained_by_operator = False
        self.in_flight = 0
        self.learned_at = -math.inf
        """When its overhead was last learned, or faded."""
        self.shown_at = -math.inf
        """When its columns were last written."""
        self.shown_wait = -1.0
        """The wait its columns show."""
        self._unseen: dict[int, tuple[float, float]] = {}
        """Our dispatches the last load cannot contain: identity -> (dispatched at, seconds of work)."""
        self._unseen_work = 0.0
        self._finished_work = 0.0
        """Work of ours the last load contains and that has ended since."""
        self._finished = 0
        self.serial = False
        """Whether its engine starts one request after the other (prefill of text): then all that is ahead is a wait,
        free slots or not."""
        self.service = 0.0
        """Mean seconds for which one of our requests keeps the next one waiting there."""
        self.turn = 0.0
        """Mean seconds for which one of ours keeps those waiting that wait for a slot; where no backlog is told."""
        self.strangers = 0.0
        """Requests a second that others send there, by its own count of arrivals."""
        self.asked_at = -math.inf
        """When it was last asked for its load out of turn."""
        self._sent = 0
        self._counted = (0, -math.inf, 0)
        """Arrivals it had counted, when, and how many of ours had been sent by then."""

    def serve(self, nodes: list[Node]) -> None:
        """Take the nodes of a new record."""
        self.nodes = nodes
        self.slots = max(node.endpoint.max_batch for node in nodes)
        self.serial = any(node.endpoint.curve.decode > 0.0 for node in nodes)
        self.service = self.service or self._work()
        self._free = 0  # until the next load

    # What the registry says.

    def loaded(self, load: Load, as_of: float) -> None:
        """Take a newer load: forget what it already contains of ours."""
        self._count_strangers(load, as_of)
        self.load, self.load_at = load, as_of
        unseen = self._unseen
        if unseen:
            arrived_by = as_of - self.rtt.mean / 2
            for key in [key for key, (at, _) in unseen.items() if at <= arrived_by]:
                del unseen[key]
            self._unseen_work = sum(work for _, work in unseen.values()) if unseen else 0.0
        self._finished_work, self._finished = 0.0, 0
        idle = load.waiting == 0 and load.backlog == 0.0
        self._free = self.slots - (load.running or 0) if idle and not self.serial else 0
        self._follow_drain()

    def _count_strangers(self, load: Load, as_of: float) -> None:
        """Learn what others send: what has arrived there since the last count, less what we sent."""
        arrived, at, sent = self._counted
        span = as_of - at
        if arrived <= load.arrived and span < math.inf:
            if span < SHORTEST_SPAN:
                return
            rate = max(0, load.arrived - arrived - (self._sent - sent)) / span
            self.strangers += (1.0 - math.exp(-span / STRANGERS_SECONDS)) * (rate - self.strangers)
        self._counted = (load.arrived, as_of, self._sent)

    def drain(self, on: bool) -> None:
        """An operator's drain; the worker's own `draining` flag has the same effect."""
        self.drained_by_operator = on
        self._follow_drain()

    def _follow_drain(self) -> None:
        draining = self.drained_by_operator or (self.load is not None and self.load.draining)
        if draining is not (self.health.state is State.DRAINING):
            self.health.apply(Event.DRAIN if draining else Event.UNDRAIN)

    # What we sent.

    def reserve(self, dispatch: Dispatch, work: float) -> None:
        """Count a dispatch, and the seconds it keeps others waiting."""
        self.in_flight += 1
        self._sent += 1
        gain = 1.0 / (self._sent + SERVICE_PRIOR)
        gain = gain if gain > SERVICE_GAIN else SERVICE_GAIN
        self.service += gain * (work - self.service)
        if self.serial and self.load is not None and self.load.backlog is None:
            turn = dispatch.node.share(dispatch.eta.prefill + dispatch.eta.decode)
            self.turn += (gain if self.turn else 1.0) * (turn - self.turn)
        self._unseen[id(dispatch)] = (dispatch.at, work)
        self._unseen_work += work

    def release(self, dispatch: Dispatch, work: float) -> None:
        """Undo `reserve`, exactly once, whatever came of the dispatch."""
        self.in_flight -= 1
        seen = self._unseen.pop(id(dispatch), None)
        if seen is None:
            self._finished_work += work
            self._finished += 1
            if self._free:
                self._free += 1
        elif self._unseen:
            self._unseen_work -= seen[1]
        else:
            self._unseen_work = 0.0  # exact again: no rounding survives an idle moment

    # What follows.

    def relaxed(self, now: float) -> bool:
        """Whether surely nobody waits there: then one request more or less of ours changes no wait."""
        return len(self._unseen) < self._free and now - self.load_at <= STALE_LOAD_SECONDS

    def calm(self, now: float) -> bool:
        """Whether it is healthy and has had free slots all the while, so that nothing shown of it changes."""
        if self.shown_wait or len(self._unseen) >= self._free:
            return False
        health = self.health
        return health.state is SERVING and not health.slow and now - self.load_at <= STALE_LOAD_SECONDS

    def outstanding(self, now: float) -> int:
        """Requests waiting and running there, ours included, as far as known."""
        load = self.load
        if load is None or load.waiting is None or now - self.load_at > STALE_LOAD_SECONDS:
            return self.in_flight
        reported = load.waiting + (load.running or 0)
        return max(reported - self._finished, 0) + len(self._unseen)

    def wait(self, now: float) -> float:
        """Seconds until a request arriving there now would start."""
        load = self.load
        if load is None or load.waiting is None or now - self.load_at > STALE_LOAD_SECONDS:
            ahead = self.in_flight - self.slots
            return ahead * self._work() if ahead > 0 else 0.0
        if self.serial:
            return self._queue(load, now) + self._unseen_work
        if load.backlog is None:
            reported = max(0, load.waiting - self._finished) * self._work()
        elif load.backlog == 0.0:
            reported = 0.0
        else:
            reported = max(0.0, load.backlog - (now - self.load_at) - self._finished_work)
        free = self.slots - load.waiting - (load.running or 0) + self._finished
        if len(self._unseen) < free:
            return reported  # a queue is only a wait when the engine has no free slot
        return reported + self._unseen_work

    def _queue(self, load: Load, now: float) -> float:
        """What is left of the queue that a load reported: it shrinks by what is served and grows by what strangers
        send, as far as these are known."""
        if load.backlog is None:
            assert load.waiting is not None
            # Text that waits at all waits for a slot, as a rule: vLLM and its like start what they have room for.
            return max(0, load.waiting - self._finished) * max(self.service, self.turn)
        left = load.backlog - (now - self.load_at) * (1.0 - min(1.0, self.strangers * self.service))
        return left if left > 0.0 else 0.0

    @property
    def running(self) -> int:
        """Requests at work there at once, ours included, as far as known."""
        load, slots = self.load, self.slots
        if load is None or load.running is None:
            return min(self.in_flight, slots)
        reported = load.running + (load.waiting or 0) - self._finished
        running = (reported if reported > 0 else 0) + len(self._unseen)
        return running if running < slots else slots

    def age(self, now: float) -> float:
        """Seconds since its load was taken, as far as that still says something."""
        age = now - self.load_at
        return 0.0 if age < 0.0 else age if age < STALE_LOAD_SECONDS else STALE_LOAD_SECONDS

    def unheard(self, now: float) -> float:
        """Seconds of which nobody here knows what others sent it, when a request of now arrives."""
        age = now - self.load_at
        return (0.0 if age < 0.0 else age if age < STALE_LOAD_SECONDS else STALE_LOAD_SECONDS) + self.rtt.mean / 2

    def doubt(self, wait: float, unheard: float) -> float:
        """The part of a prediction's spread that does not grow with the request (algorithm.md 2.3).

        Jitter, the error of the wait, and what strangers may have sent since the load was taken.
        """
        service = self.service
        busy = self.strangers * service
        unseen = math.sqrt((busy if busy > IDLE_ARRIVALS else IDLE_ARRIVALS) * service * unheard)
        return self.rtt.jitter + WAIT_ERROR * wait + unseen

    def worth_asking(self, now: float) -> bool:
        """Whether its load is worth a probe: old, and strangers may have sent enough since for it to matter."""
        age = now - self.load_at
        if age < FRESH_SECONDS + self.rtt.mean / 2 or now - self.asked_at < FRESH_SECONDS:
            return False
        return self.load is None or self.age(now) * self.strangers * self.service > WORTH_ASKING

    def headroom(self, wait: float, unheard: float) -> float:
        """Requests it can take before anybody hears of them without a wait beyond the knee (algorithm.md 2.6): what it
        serves in the time until then, and what still fits before the knee."""
        room = (unheard + KNEE - wait) / self.service if self.service > 0.0 else math.inf
        return room if room > MIN_HEADROOM else MIN_HEADROOM

    def _work(self) -> float:
        """Seconds one more typical request adds, over all endpoints."""
        return sum(node.typical_work for node in self.nodes) / len(self.nodes)

    def fade(self, now: float) -> None:
        """Without answers, what was learned grows old: one bad sample must not keep a worker out for good."""
        idle = now - self.learned_at
        if self.overhead.mean and idle >= FADE_EVERY:
            self.learned_at = now
            self.overhead.fade(faded(idle))

    def accepts(self, now: float) -> bool:
        """Serving, not resting after a refusal, and within its slow start."""
        health = self.health
        if now < health.rests_until:
            return False
        if health.state is State.SERVING:
            return not health.slow or self.in_flight < health.slow
        return health.state is State.PROBING and self.in_flight == 0

    def __repr__(self) -> str:
        return f"<Worker {self.record.id} {self.health.state.value} {self.in_flight} in flight, {self.rtt!r}>"
