"""Who may look: the true wait of every node at the moment a request would get there. No gateway can know it."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np

from loadtests.simulator.contender import Setting, Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.node import Node
from policies.request import INFINITE, Dispatch

CONGESTION_S = 0.1
"""w0: a node whose wait is so long counts as twice as dear (algorithm.md 2.4)."""
MARGIN = 2.0
"""Standard deviations of service noise kept between prediction and deadline: the noise is the request's own, and not
even a clairvoyant is told."""


class Coming:
    """Work on its way to each worker, from all gateways: when it arrives, and its seconds."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[float, float]]] = {}
        self._seconds: dict[str, float] = {}

    def add(self, worker_id: str, at: float, seconds: float) -> None:
        self._queues.setdefault(worker_id, deque()).append((at, seconds))
        self._seconds[worker_id] = self._seconds.get(worker_id, 0.0) + seconds

    def seconds(self, worker_id: str, now: float) -> float:
        """Of what has not arrived by now (those that overtook a slower one count until it is there)."""
        queue = self._queues.get(worker_id)
        if not queue:
            return 0.0
        while queue and queue[0][0] <= now:
            self._seconds[worker_id] -= queue.popleft()[1]
        if not queue:
            self._seconds[worker_id] = 0.0
        return self._seconds[worker_id]


class Clairvoyant(Watching):
    """The cheapest node that will be in time by its true wait, with or without a price on congestion.

    The clairvoyant greedy of algorithm.md 5.3: nothing is stale, what any gateway has sent counts from then on, the
    present slowness of each node is known. It is greedy, so not an optimum. Cost is multiplied by 1 + wait / 0.1 s,
    because what waits displaces other work; without that it is myopic. If nobody will be in time, the soonest.
    """

    def __init__(self, setting: Setting, *, congestion: bool) -> None:
        self._truth: Any = setting.truth
        self._gateway = setting.gateway
        self._congestion = congestion
        self._margin = 1.0 + MARGIN * setting.world.serving.noise
        self._ways: dict[str, float] = {}
        self.coming = Coming()

    def _shared(self) -> Coming:
        """All gateways' clairvoyants write into the first one's book."""
        first = self._truth.edges[0].contender.balancer
        return first.coming

    def _way(self, region: str) -> float:
        way = self._ways.get(region)
        if way is None:
            way = self._ways[region] = self._truth.one_way(self._gateway, region)
        return way

    def sent(self, dispatch: Dispatch, now: float) -> None:
        node = dispatch.node
        work = node.seconds(dispatch.request, 0.0)
        self._shared().add(node.worker.id, now + self._way(node.region), work)

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        eligible = candidates.eligible
        if not eligible.any():
            return None
        request, now, nodes = candidates.request, self.now, candidates.columns.nodes
        coming = self._shared()
        seen = [self._look(node, request.prompt_tokens, coming) for node in nodes]
        waits, firsts, paces = (np.array(column, np.float32) for column in zip(*seen, strict=True))
        lasts = firsts + max(0.0, request.output_tokens - 1.0) * paces
        fit = eligible & (firsts <= request.first_token_deadline - now) & (lasts <= request.deadline - now)
        if request.token_interval < INFINITE:
            fit &= paces <= request.token_interval
        if request.patient:
            fit = eligible & (waits <= request.patience)
        if not fit.any():
            return lowest(eligible, firsts, rng)
        cost = candidates.cost * (1.0 + waits / CONGESTION_S) if self._congestion else candidates.cost
        return lowest(fit, cost, rng)

    def _look(self, node: Node, prompt: float, coming: Coming) -> tuple[float, float, float]:
        """Wait on arrival, seconds until the first token is here, and per further token."""
        worker, now = self._truth.workers[node.worker.id], self.now
        if worker.disturbed:
            return np.inf, np.inf, np.inf
        way, curve = self._way(node.region), node.endpoint.curve
        company = worker.running / worker.slots
        slow = worker.slow.factor(now) * worker.slowed
        service = worker.services[node.endpoint.model, node.endpoint.variant]
        pace = slow * (1.0 + service.interference * company)
        wait = max(0.0, worker.wait(now) + coming.seconds(worker.id, now) * pace - way)
        prefill = (curve.base + prompt * curve.prefill) * pace * self._margin
        token = (service.decode_s + service.decode_batch_s * (worker.running + 1)) * slow * self._margin
        return wait, 2.0 * way + wait + prefill, token
