"""C3: replicas ranked by what they say on their answers."""

from __future__ import annotations

import random

import numpy as np

from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.node import Node
from policies.request import Change, Dispatch, LoadSeen, Outcome

EXPONENT = 3
"""Of the queue, so that a long one is feared more than its length."""
GAIN = 0.3
"""Of the averages. Tuned: the best of 0.1, 0.3 and the paper's 0.9, by a point or two."""


class Replica:
    """What was learned of a worker: averages of response time, service time and queue."""

    __slots__ = ("queue", "response", "service")

    def __init__(self) -> None:
        self.response = self.service = self.queue = 0.0

    def answered(self, response: float, service: float) -> None:
        first = self.service == 0.0
        self.response += (response - self.response) * (1.0 if first else GAIN)
        self.service += (service - self.service) * (1.0 if first else GAIN)


class C3(Watching):
    """The lowest R - 1/mu + q^3 / mu, with q = 1 + own in flight * gateways + queue reported.

    Suresh, Canini, Schmid, Feldmann, "C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica Selection"
    (NSDI 2015), section 3.1: R is the response time as seen here, 1/mu the service time and the queue as servers tell
    on their answers; own requests in flight stand for what the other clients send at the same time. Answers of these
    workers tell queueing and prefill time; the queue's length comes with load reports (on answers where
    `control.on_responses` is set). Response is that of the first token. Its rate control (section 3.2) is left out: it
    delays requests that have no deadline.
    """

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._replicas: dict[str, Replica] = {}

    def _of(self, worker_id: str) -> Replica:
        replica = self._replicas.get(worker_id)
        if replica is None:
            replica = self._replicas[worker_id] = Replica()
        return replica

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        nodes = candidates.columns.nodes
        scores = np.fromiter(map(self._score, nodes), np.float64, len(nodes))
        return lowest(candidates.eligible, scores, rng)  # type: ignore[arg-type]

    def _score(self, node: Node) -> float:
        replica, pending = self._of(node.worker.id), node.state.in_flight
        service = replica.service or node.endpoint.curve.seconds(1000.0)  # nobody has answered yet: by its record
        queue = 1.0 + pending * self._clients + replica.queue
        return replica.response - service + queue**EXPONENT * service

    def observed(self, change: Change, now: float) -> None:
        if isinstance(change, LoadSeen) and change.load.waiting is not None:
            self._of(change.load.worker).queue = change.load.waiting

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        if outcome.prefill is not None and outcome.first_byte is not None:
            self._of(dispatch.node.worker.id).answered(outcome.first_byte, outcome.prefill)
