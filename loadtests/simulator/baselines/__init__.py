"""Policies to beat: each a small balancer in the product's own router, with the source it follows in its docstring.

They see what any gateway sees: heartbeats, round trips, their own outcomes, and the answers to probes of their own.
Only the clairvoyants look at the truth. Prices, distances and service curves are known to all of them from the
workers' records; whether they use them is what tells them apart. A choice their source leaves open was made in their
favour. Constants are their source's, or tuned where a comment says so: on seed 1,000 of a neighbour of the headline
world, with heartbeats of 0.7 s and arrivals of coefficient 1.2; evaluations use seeds from 1 on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from policies.candidates import Candidates
from policies.columns import Columns, Floats
from policies.node import Node
from policies.worker import WorkerState

PREFIXES = 4096
"""Affinity keys remembered per worker."""


def by_slot(columns: Columns, value: Callable[[WorkerState], float]) -> Floats:
    """A figure of every node's worker."""
    nodes = columns.nodes
    return np.fromiter((value(node.state) for node in nodes), np.float32, len(nodes))


def in_flight(state: WorkerState) -> float:
    return state.in_flight


def waiting(state: WorkerState) -> int:
    """Requests waiting by the last report; 0 where there is none."""
    load = state.load
    return 0 if load is None or load.waiting is None else load.waiting


def idle_first_token(candidates: Candidates) -> Floats:
    """Seconds until every node's first token if nothing waited there: network and prefill."""
    first, _, _ = candidates.columns.evaluate(candidates.request, 0.0)
    return first - candidates.columns.wait


class Prefixes:
    """Which affinity keys were sent to which worker, the last ones of each."""

    def __init__(self) -> None:
        self._keys: dict[str, OrderedDict[str, None]] = {}

    def remember(self, worker_id: str, key: str) -> None:
        keys = self._keys.setdefault(worker_id, OrderedDict())
        keys[key] = None
        keys.move_to_end(key)
        if len(keys) > PREFIXES:
            keys.popitem(last=False)

    def known(self, worker_id: str, key: str) -> bool:
        return key in self._keys.get(worker_id, ())


class Directory:
    """Where a worker's endpoints stand in a model's columns."""

    def __init__(self) -> None:
        self._columns: Columns | None = None
        self._size = -1
        self._nodes: dict[str, list[Node]] = {}

    def slots(self, columns: Columns, worker_id: str) -> list[int]:
        """None when the worker does not serve the model, or is gone."""
        if columns is not self._columns or len(columns.nodes) != self._size:
            self._read(columns)
        nodes = self._nodes.get(worker_id, ())
        if any(node.columns is not columns for node in nodes):  # one came for one that left
            self._read(columns)
            nodes = self._nodes.get(worker_id, ())
        return [node.slot for node in nodes]

    def _read(self, columns: Columns) -> None:
        self._columns, self._size = columns, len(columns.nodes)
        self._nodes = {}
        for node in columns.nodes:
            self._nodes.setdefault(node.worker.id, []).append(node)
