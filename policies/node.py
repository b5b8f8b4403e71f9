"""A worker as this gateway knows it, and its nodes.

`WorkerState` holds what the nodes of one worker share: its records, health, round trips, and the requests we sent
that its last load report cannot contain yet. `Node` is an endpoint of it: what a request would take and cost there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from policies import cost
from policies.estimate import Overhead, RoundTrips, Speed
from policies.health import Event, Health, HealthConfig, State
from policies.records import Endpoint, Load, Worker
from policies.request import Dispatch, Eta, Outcome, Request

if TYPE_CHECKING:
    from policies.columns import Columns

WAIT_ERROR = 0.2
"""Spread per second of predicted wait (algorithm.md 2.3)."""
IDLE_ARRIVALS = 0.3
"""Share of its capacity a node is assumed to receive unseen from others: what keeps an idle-looking cheap node from
claiming certainty and being herded on (algorithm.md 2.3)."""
TYPICAL_TOKENS = 64
"""Output length assumed where no request is at hand: half the median chat answer of the Azure 2023 trace, because
embeddings have none; only the scale matters."""
HALF_LIFE = 60.0
"""Seconds without answers after which half of what was learned is forgotten."""
FADE_EVERY = 5.0
"""Seconds between two steps of that: a twelfth of the half-life is smooth enough."""
WORTH_SHOWING = 0.005
"""Relative change of what is learned below which the columns stay as they are: a tenth of a price tier."""
STALE_LOAD_SECONDS = 3.0
"""A load report older than this (three heartbeats) says nothing; own in-flight counts serve."""


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
        self.shown_wait = -1.0
        """The wait its columns show."""
        self._unseen: dict[int, tuple[float, float]] = {}
        """Our dispatches the last load cannot contain: identity -> (dispatched at, seconds of work)."""
        self._unseen_work = 0.0
        self._finished_work = 0.0
        """Work of ours the last load contains and that has ended since."""
        self._finished = 0

    def serve(self, nodes: list[Node]) -> None:
        """Take the nodes of a new record."""
        self.nodes = nodes
        self.slots = max(node.endpoint.max_batch for node in nodes)
        self._free = 0  # until the next load

    # What the registry says.

    def loaded(self, load: Load, as_of: float) -> None:
        """Take a newer load: forget what it already contains of ours."""
        self.load, self.load_at = load, as_of
        arrived_by = as_of - self.rtt.mean / 2
        for key in [key for key, (at, _) in self._unseen.items() if at <= arrived_by]:
            del self._unseen[key]
        self._unseen_work = sum(work for _, work in self._unseen.values())
        self._finished_work, self._finished = 0.0, 0
        idle = load.waiting == 0 and load.backlog == 0.0
        self._free = self.slots - (load.running or 0) if idle else 0
        self._follow_drain()

    def drain(self, on: bool) -> None:
        """An operator's drain; the worker's own `draining` flag has the same effect."""
        self.drained_by_operator = on
        self._follow_drain()

    def _follow_drain(self) -> None:
        draining = self.drained_by_operator or (self.load is not None and self.load.draining)
        self.health.apply(Event.DRAIN if draining else Event.UNDRAIN)

    # What we sent.

    def reserve(self, dispatch: Dispatch, work: float) -> None:
        """Count a dispatch, and the seconds it keeps others waiting."""
        self.in_flight += 1
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


class Node:
    """One endpoint of one worker, as this gateway sees it. `slot` is its place in its model's columns."""

    __slots__ = (
        "_shown",
        "charge",
        "columns",
        "counted",
        "counted_draining",
        "endpoint",
        "id",
        "learned_at",
        "rates",
        "region",
        "slot",
        "speed",
        "state",
        "typical_work",
        "worker",
    )

    def __init__(self, state: WorkerState, endpoint: Endpoint) -> None:
        self.state = state
        self.speed = Speed()
        self.charge = Speed()
        """Accelerator seconds over the curve's, learned like the speed."""
        self.columns: Columns | None = None
        self.slot = -1
        self.counted = False
        """Whether its columns count it as in service."""
        self.counted_draining = False
        self.learned_at = -math.inf
        """When the last answer was learned from, or what was learned last faded."""
        self._shown = (1.0, self.speed.error, 1.0)
        """Speed, error and charge as the columns show them."""
        self.describe(endpoint)

    def describe(self, endpoint: Endpoint) -> None:
        """Take a new description of the endpoint; what was learned about it stays."""
        self.endpoint = endpoint
        self.worker = worker = self.state.record
        self.region = worker.region
        self.id = f"{worker.id}/{endpoint.model}:{endpoint.variant}"
        self.typical_work = self.share(endpoint.curve.base + TYPICAL_TOKENS * endpoint.curve.decode)
        self.price()

    def price(self) -> None:
        self.rates = cost.rates(self.state.record, self.endpoint.curve, self.charge.factor)

    def accepts(self, now: float) -> bool:
        return self.state.accepts(now)

    def work(self, request: Request) -> float:
        """Seconds this request keeps others waiting there."""
        return self.share(self.seconds(request) * self.speed.factor)

    def seconds(self, request: Request, output_tokens: float | None = None) -> float:
        """Compute seconds by the service curve, with the expected or the given output."""
        tokens = request.output_tokens if output_tokens is None else output_tokens
        return self.endpoint.curve.seconds(request.prompt_tokens, tokens, request.items)

    def share(self, seconds: float) -> float:
        """Seconds that so much compute keeps others waiting: its share of the slots, or its place in a batch."""
        endpoint = self.endpoint
        shared, item = seconds / endpoint.max_batch, endpoint.curve.item
        return shared if shared > item else item

    def network(self) -> float:
        return self.state.rtt.mean + self.state.overhead.mean

    def fixed_spread(self, wait: float, now: float) -> float:
        """The part of the spread that does not grow with the request (algorithm.md 2.3).

        Jitter, the error of the wait, and what strangers may have sent unseen since the load was taken.
        """
        state = self.state
        rtt, age = state.rtt, now - state.load_at
        if not 0.0 <= age <= STALE_LOAD_SECONDS:
            age = 0.0 if age < 0.0 else STALE_LOAD_SECONDS
        unseen = math.sqrt(IDLE_ARRIVALS * self.typical_work * (age + rtt.mean / 2))
        return rtt.jitter + WAIT_ERROR * wait + unseen

    def eta(self, request: Request, now: float) -> Eta:
        """Mean and spread of the time a request sent now would take."""
        curve, speed, state = self.endpoint.curve, self.speed, self.state
        factor, tokens = speed.factor, request.output_tokens
        decode = curve.decode * tokens * factor
        compute = curve.seconds(request.prompt_tokens, tokens, request.items) * factor
        wait = 0.0 if state.relaxed(now) else state.wait(now)
        spread = self.fixed_spread(wait, now) + speed.error * compute
        if request.output_deviation:
            spread += curve.decode * factor * request.output_deviation
        return Eta(state.rtt.mean + state.overhead.mean, wait, compute - decode, decode, spread)

    def cost(self, request: Request) -> float:
        """Expected US dollars for a request."""
        r = self.rates
        tokens = r.prompt * request.prompt_tokens + r.output * request.output_tokens
        return r.request + tokens + r.item * (request.items - 1) + r.byte * request.reply_bytes

    def learn(self, dispatch: Dispatch, outcome: Outcome) -> bool:
        """Correct network, speed and charge from what the worker and our own clock reported of an answer.

        Whether that moved them enough to be shown in the columns.
        """
        self.learned_at = dispatch.at
        request, state = dispatch.request, self.state
        prefill, first_byte = outcome.prefill, outcome.first_byte
        if prefill is not None and first_byte is not None:
            compute = prefill + (outcome.decode or 0.0)
            inside = (outcome.queue or 0.0) + (prefill if request.stream else compute)
            state.overhead.observe(first_byte - inside - state.rtt.mean)
            state.learned_at = dispatch.at
        elif outcome.total is not None and state.wait(dispatch.at) == 0.0:
            compute = outcome.total - dispatch.eta.network
        else:
            return False
        curve_seconds = self.seconds(request, outcome.output_tokens)
        if curve_seconds <= 0.0:
            return False
        speed, charging = self.speed, self.charge
        speed.observe(compute / curve_seconds)
        if outcome.accelerator is not None:
            charging.observe(outcome.accelerator / curve_seconds)
        factor, error, charge = self._shown
        if (
            abs(speed.factor - factor) <= WORTH_SHOWING * factor
            and abs(speed.error - error) <= WORTH_SHOWING
            and abs(charging.factor - charge) <= WORTH_SHOWING * charge
        ):
            return False
        self._show()
        return True

    def fade(self, now: float) -> None:
        """As `WorkerState.fade`, for what was learned of this endpoint."""
        idle = now - self.learned_at
        if self.speed.samples and idle >= FADE_EVERY:
            self.learned_at = now
            self.speed.fade(faded(idle))
            self.charge.fade(faded(idle))
            self._show()

    def _show(self) -> None:
        """Make what is learned what the columns show."""
        self._shown = (self.speed.factor, self.speed.error, self.charge.factor)
        self.price()
        if self.columns is not None:
            self.columns.describe(self)

    def __repr__(self) -> str:
        return f"<Node {self.id} in {self.region}>"
