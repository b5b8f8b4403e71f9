"""GORGO: network, queue and prefill in one sum, and the lowest sum wins."""

from __future__ import annotations

import random

import numpy as np

from loadtests.simulator.baselines import Prefixes, waiting
from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.node import Node
from policies.request import Change, Dispatch, Outcome, Request, RoundTrip

RUNNING = 0.5
"""`running_cost_factor`: what a running request's tokens count."""
GAIN = 0.3
"""Of the round trip's average."""
TYPICAL_TOKENS = 500.0
"""Prompt of a waiting request where nothing of one's own runs there to tell."""


class Gorgo(Watching):
    """The lowest (queued + 0.5 running + not cached tokens) * seconds per token + round trip.

    "GORGO: Maximizing KV-cache reuse while minimizing network latency in cross-region LLM load balancing" (arXiv
    2602.11688) and `pkg/proxy/proxy.go` of atoniolo76/gotoni: running tokens are those of one's own requests in flight,
    queued ones the reported number waiting times the mean of these. Theirs is one global time per token; here it is
    each node's own. A key sent there before counts as all cached. No capacity gate: it would queue at the gateway.
    """

    def __init__(self) -> None:
        self._round_trips: dict[str, float] = {}
        self._tokens: dict[str, list[float]] = {}
        """By worker: prompt tokens and number of one's own requests in flight."""
        self._prefixes = Prefixes()

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        request, nodes = candidates.request, candidates.columns.nodes
        costs = np.fromiter((self._cost(node, request) for node in nodes), np.float32, len(nodes))
        return lowest(candidates.eligible, costs, rng)

    def _cost(self, node: Node, request: Request) -> float:
        name = node.worker.id
        running, count = self._tokens.get(name, (0.0, 0.0))
        mean = running / count if count else TYPICAL_TOKENS
        cached = bool(request.affinity) and self._prefixes.known(name, request.affinity)
        tokens = waiting(node.state) * mean + RUNNING * running + (0.0 if cached else request.prompt_tokens)
        return tokens * node.endpoint.curve.prefill + self._round_trips.get(name, node.state.rtt.mean)

    def observed(self, change: Change, now: float) -> None:
        if isinstance(change, RoundTrip):
            old = self._round_trips.get(change.worker_id, change.seconds)
            self._round_trips[change.worker_id] = old + GAIN * (change.seconds - old)

    def sent(self, dispatch: Dispatch, now: float) -> None:
        self._count(dispatch, 1.0)

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        self._count(dispatch, -1.0)
        key = dispatch.request.affinity
        if key and outcome.reason is None:
            self._prefixes.remember(dispatch.node.worker.id, key)

    def _count(self, dispatch: Dispatch, sign: float) -> None:
        entry = self._tokens.setdefault(dispatch.node.worker.id, [0.0, 0.0])
        entry[0] += sign * dispatch.request.prompt_tokens
        entry[1] += sign
