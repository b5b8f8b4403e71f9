"""All nodes this gateway knows: membership, what was observed of them, and what we have in flight on them.

The fleet outlives a change of policies. It keeps surviving workers across updates, so their history survives; it
never lets a record or a load go backwards; and it caps how many workers may be out for bad health at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from policies import reserved
from policies.calibrate import Calibration
from policies.columns import Columns
from policies.estimate import RoundTrips
from policies.health import Event, HealthConfig, State
from policies.node import Node
from policies.reason import Reason
from policies.records import Endpoint, Worker
from policies.request import (
    Change,
    Dispatch,
    DrainSet,
    LoadSeen,
    Outcome,
    ProbeFailed,
    Request,
    RoundTrip,
    WorkerGone,
    WorkerSeen,
)
from policies.signals import Signals
from policies.worker import WorkerState

SHOWN_SECONDS = 0.05
"""How old the columns of a worker may be whose answers say, one soon after the other, that nobody waits there."""
SWEEP_SHARE = 20
"""A tick rewrites one in this many workers, so that ages grow in the columns even where no report arrives; at 20 ticks
a second every worker comes round once a second."""

WORKER_FAULTS = frozenset(
    {Reason.CONNECT_FAILED, Reason.UPSTREAM_LOST, Reason.UPSTREAM_ERROR, Reason.BAD_UPSTREAM_REPLY}
    | {Reason.STREAM_INTERRUPTED, Reason.DEADLINE_EXCEEDED}
)
"""Outcomes that count against a worker's health. A missed deadline counts only when the worker was silent."""


Extra = Callable[[str, Worker], float]
"""Model and worker -> US dollars per accelerator second that a route counts beside the worker's price."""


def nothing_extra(model: str, worker: Worker) -> float:
    """Where no route counts energy or carbon."""
    return 0.0


class Fleet:
    """Workers by id, and their nodes in columns by model."""

    def __init__(self, rng: random.Random, health: HealthConfig | None = None) -> None:
        self.health = health or HealthConfig()
        self.workers: dict[str, WorkerState] = {}
        self.calibration = Calibration()
        self.signals = Signals()
        self._columns: dict[str, Columns] = {}
        self._regions: dict[str, RoundTrips] = {}
        self.panics = 0
        """Dispatches sent to a node in bad health, because too few good ones were left."""
        self._rng = rng
        self._sweep: list[WorkerState] = []
        self._extra: Extra = nothing_extra

    # Reading.

    def models(self) -> list[str]:
        """The models some node serves, sorted."""
        return sorted(self._columns)

    def nodes(self, model: str | None = None) -> list[Node]:
        if model is None:
            return [node for columns in self._columns.values() for node in columns.nodes]
        columns = self._columns.get(model)
        return list(columns.nodes) if columns else []

    def columns(self, model: str) -> Columns | None:
        """What a model's requests are decided by, with all in it that was observed."""
        columns = self._columns.get(model)
        if columns is not None and columns.changed:
            columns.catch_up()
        return columns

    def refresh(self, model: str, now: float) -> None:
        """Bring a model's columns up to date, ages included: what an explanation wants, and no request waits for."""
        columns = self._columns.get(model)
        if columns is not None:
            for node in columns.nodes:
                columns.describe(node)
                columns.changed[node] = now
            columns.catch_up()

    def regions(self) -> dict[str, RoundTrips]:
        """Round trips to each region, over all its workers; a new worker starts from them."""
        return self._regions

    # Changing.

    def apply(self, change: Change, now: float) -> None:
        """Take one observation. Unknown workers and outdated records are ignored."""
        if isinstance(change, LoadSeen):  # by far the most frequent
            self._loaded(change, now)
            return
        if isinstance(change, WorkerSeen):
            self._seen(change.worker, now)
            return
        state = self.workers.get(change.worker_id)
        if state is None:
            return
        match change:
            case RoundTrip(_, seconds):
                self._measured(state, seconds)
            case ProbeFailed():
                if state.health.probed(ok=False) and self._may_eject(state):
                    state.health.eject(now, self._rng)
            case DrainSet(_, on):
                state.drain(on)
            case WorkerGone():
                self._gone(state)
                return
        self._touch(state, now)

    def _loaded(self, change: LoadSeen, now: float) -> None:
        load = change.load
        state = self.workers.get(load.worker)
        if state is None:
            return
        old, boot = state.load, load.boot
        outdated = old is not None and not change.newest and old.boot == boot and load.seq <= old.seq
        if boot == state.record.boot and not outdated:
            fresh = now - SHOWN_SECONDS
            known = state.load_at > fresh and state.shown_at > fresh
            state.loaded(load, now - change.age)
            if known and state.calm(now):
                return
        self._touch(state, now)

    def _seen(self, record: Worker, now: float) -> None:
        state = self.workers.get(record.id)
        if state is None:
            state = WorkerState(record, self.health, self._regions.get(record.region))
            self.workers[record.id] = state
            if any(
                endpoint.model in self._columns and self._columns[endpoint.model].routed
                for endpoint in record.endpoints
            ):
                state.health.begin_slowly()  # others serve its models here; at a cold start all would be new
        elif record.seq < state.record.seq or record == state.record:
            return
        else:
            if record.boot != state.record.boot:
                state.load = None
            state.record = record
        self._match_endpoints(state, record.endpoints, now)

    def _match_endpoints(self, state: WorkerState, endpoints: tuple[Endpoint, ...], now: float) -> None:
        """Make the worker's nodes those of its record; endpoints that stay keep what was learned."""
        known = {(node.endpoint.model, node.endpoint.variant): node for node in state.nodes}
        new: list[tuple[Node, bool]] = []
        for endpoint in endpoints:
            node = known.pop((endpoint.model, endpoint.variant), None)
            new.append((node or Node(state, endpoint), node is None))
            new[-1][0].extra = self._extra(endpoint.model, state.record)
            new[-1][0].describe(endpoint)
        state.serve([node for node, _ in new])
        for node in known.values():
            self._remove(node)
        for node, is_new in new:
            if is_new:
                model = node.endpoint.model
                if model not in self._columns:
                    self._columns[model] = Columns(model, self.calibration)
                self._columns[model].add(node, now)
            elif node.columns is not None:
                node.columns.masks.forget()
                node.columns.describe(node)
                node.columns.changed[node] = now

    def weigh(self, extra: Extra) -> None:
        """Count from now on what configuration puts beside the workers' own prices."""
        self._extra = extra
        for node in self.nodes():
            node.extra = extra(node.endpoint.model, node.worker)
            node.price()
            if node.columns is not None:
                node.columns.describe(node)

    def _gone(self, state: WorkerState) -> None:
        state.health.apply(Event.LEFT)
        del self.workers[state.record.id]
        for node in state.nodes:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        columns = node.columns
        if columns is not None:
            columns.remove(node)
            if not columns.nodes:
                del self._columns[columns.model]

    def _measured(self, state: WorkerState, seconds: float) -> None:
        state.rtt.observe(seconds)
        state.health.probed(ok=True)
        self._regions.setdefault(state.record.region, RoundTrips()).observe(seconds)

    def _may_eject(self, state: WorkerState) -> bool:
        """Whether one more worker of the models it serves may be out: never the last, never more than the cap."""
        models = {node.endpoint.model for node in state.nodes}
        peers = {
            id(node.state): node.state
            for model in models
            if model in self._columns
            for node in self._columns[model].nodes
        }
        others = [peer.health.state for peer in peers.values() if peer is not state]
        out = sum(other in (State.EJECTED, State.PROBING) for other in others)
        usable = 1 + sum(other is not State.DRAINING for other in others)
        return State.SERVING in others and out + 1 <= max(1, int(self.health.max_ejected_share * usable))

    # Our own requests.

    def reserve(self, dispatch: Dispatch, work: float) -> None:
        state = dispatch.node.state
        state.reserve(dispatch, work)
        self._count(state, dispatch.at)

    def settle(self, dispatch: Dispatch, work: float, outcome: Outcome, now: float) -> None:
        """Release the reservation and learn from the outcome."""
        node = dispatch.node
        state = node.state
        state.release(dispatch, work)
        if outcome.reason is None:
            state.health.answered()
            if outcome.client_error or not node.learn(dispatch, outcome):
                self._count(state, now)
                return
        elif outcome.reason is Reason.REFUSED:
            state.health.rests_until = now + self.health.rest_s
        elif outcome.reason in WORKER_FAULTS:
            silent = outcome.executed and outcome.first_byte is None
            counts = silent or outcome.reason is not Reason.DEADLINE_EXCEEDED
            connect = outcome.reason is Reason.CONNECT_FAILED
            if counts and state.health.failed(connect=connect) and self._may_eject(state):
                state.health.eject(now, self._rng)
        self._touch(state, now)

    def unmet(self, request: Request, crowded_out: bool) -> None:
        """Nobody can serve a request in time; `crowded_out`: only for a queue."""
        columns = self._columns.get(request.model)
        if columns is not None:
            self.signals.missed(columns, request, crowded_out)

    def tick(self, now: float) -> None:
        """Let ejections end and ages grow."""
        if not self._sweep:
            self._sweep = list(self.workers.values())
        share = max(1, len(self.workers) // SWEEP_SHARE)
        for state in self._sweep[-share:]:
            if state.health.state is State.EJECTED and now >= state.health.until:
                state.health.apply(Event.EXPIRED)
            state.fade(now)
            for node in state.nodes:
                node.fade(now)
            self._touch(state, now)
        del self._sweep[-share:]
        for columns in self._columns.values():
            columns.catch_up()
            columns.tick(now)
            reserved.follow(columns)
        self.signals.tick(self._columns, now)

    def _count(self, state: WorkerState, now: float) -> None:
        """Show what one dispatch more or less changed: on a healthy worker with free slots, only a count."""
        calm = state.calm(now)
        for node in state.nodes:
            columns = node.columns
            if columns is not None:
                (columns.recount if calm else columns.changed)[node] = now

    def _touch(self, state: WorkerState, now: float) -> None:
        """Have it shown to the next decision. Of what comes until then, the last state is shown, once."""
        for node in state.nodes:
            if node.columns is not None:
                node.columns.changed[node] = now

    def __repr__(self) -> str:
        return f"<Fleet {len(self.workers)} workers, {sum(len(c.nodes) for c in self._columns.values())} nodes>"
