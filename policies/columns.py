"""The nodes of one model as float32 columns, and the view of them that one request gets.

A `Node` is a view on one slot. `touch` writes a slot after a change; `candidates` evaluates a request over all slots
in a few vector operations. The same functions on one `row` are what the readable oracle in `balancers/pipeline.py`
uses, so that both see bitwise the same numbers.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.estimate import Z
from policies.health import State
from policies.node import Node
from policies.records import Worker
from policies.request import ANY, INFINITE, Request, Selection

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_FLOATS = (
    "fixed",  # network + wait + base compute: seconds every request takes
    "prompt",  # seconds per prompt token
    "output",  # seconds per output token
    "item",  # seconds per further item
    "spread",  # standard deviation that every request has
    "error",  # further deviation per second of compute
    "wait",
    "network",
    "outstanding",
    "usd",
    "usd_prompt",
    "usd_output",
    "usd_item",
    "usd_byte",
    "quality",
)
_FLAGS = (
    "accepts",  # may be sent a request now
    "reachable",  # not draining: what is left to try in panic
)
_START = 8
"""Slots allocated for a new model; doubled when full."""
_MASKS_KEPT = 64
"""Distinct selections whose masks are kept per model: one per route and constraint in use, not one per request."""


class Columns:
    """One model's nodes. `nodes[i]` is described by entry i of every column."""

    fixed: Floats
    prompt: Floats
    output: Floats
    item: Floats
    spread: Floats
    error: Floats
    wait: Floats
    network: Floats
    outstanding: Floats
    usd: Floats
    usd_prompt: Floats
    usd_output: Floats
    usd_item: Floats
    usd_byte: Floats
    quality: Floats
    accepts: Mask
    reachable: Mask

    def __init__(self, model: str) -> None:
        self.model = model
        self.nodes: list[Node] = []
        self.in_service = 0
        """Nodes not out for bad health."""
        self._masks: dict[Selection, Mask] = {}
        self._store: dict[str, npt.NDArray[Any]] = {name: np.zeros(_START, np.float32) for name in _FLOATS}
        self._store |= {name: np.zeros(_START, np.bool_) for name in _FLAGS}
        self._fit_views()

    def _fit_views(self) -> None:
        """Point the attributes at as much of the store as there are nodes, so that no request slices anything."""
        size = len(self.nodes)
        for name, column in self._store.items():
            setattr(self, name, column[:size])
        self._masks.clear()

    def add(self, node: Node, now: float) -> None:
        """Append a node."""
        size = len(self.nodes)
        if size == len(self._store["fixed"]):
            self._store = {name: np.concatenate([c, np.zeros_like(c)]) for name, c in self._store.items()}
        node.columns, node.slot = self, size
        self.nodes.append(node)
        self._fit_views()
        self.describe(node)
        self.touch(node, now)

    def remove(self, node: Node) -> None:
        """Take a node out; the last one moves into its slot."""
        self.in_service -= node.counted
        node.counted = False
        last = self.nodes.pop()
        if last is not node:
            for column in self._store.values():
                column[node.slot] = column[last.slot]
            self.nodes[node.slot] = last
            last.slot = node.slot
        node.columns, node.slot = None, -1
        self._fit_views()

    def describe(self, node: Node) -> None:
        """Write what changes with a node's record, learned speed and price."""
        i, factor, curve, rates = node.slot, node.speed.factor, node.endpoint.curve, node.rates
        self.prompt[i] = curve.prefill * factor
        self.output[i] = curve.decode * factor
        self.item[i] = curve.item * factor
        self.error[i] = node.speed.error
        self.usd[i], self.usd_prompt[i], self.usd_output[i], self.usd_item[i], self.usd_byte[i] = rates
        self.quality[i] = node.endpoint.quality

    def touch(self, node: Node, now: float) -> None:
        """Write what changes with load, round trips and health."""
        i, state = node.slot, node.state
        wait, network = state.wait(now), node.network()
        base = node.endpoint.curve.base * node.speed.factor
        self.wait[i] = wait
        self.network[i] = network
        self.fixed[i] = network + wait + base
        self.spread[i] = node.fixed_spread(wait, now) + node.speed.error * base
        self.outstanding[i] = state.outstanding
        self.accepts[i] = state.accepts(now)
        health = state.health.state
        self.reachable[i] = health is not State.DRAINING
        healthy = health is State.SERVING or health is State.PROBING
        if healthy is not node.counted:
            node.counted = healthy
            self.in_service += 1 if healthy else -1

    def mask(self, selection: Selection) -> Mask:
        """Which nodes a selection allows, cached until membership or a record changes."""
        mask = self._masks.get(selection)
        if mask is None:
            if len(self._masks) >= _MASKS_KEPT:
                self._masks.clear()
            mask = self._masks[selection] = np.fromiter(
                (allows(selection, node) for node in self.nodes), np.bool_, len(self.nodes)
            )
        return mask

    def forget_masks(self) -> None:
        self._masks.clear()

    def eligible(self, request: Request, quality: float, avoid: Collection[str], panic_share: float) -> Mask:
        """Which nodes may take the request at all, deadlines aside."""
        mask = self.accepts
        if self.in_service < panic_share * len(self.nodes):
            mask = self.reachable  # panic: so much bad health means that the health data is wrong
        if quality > 0.0:
            mask = mask & (self.quality >= quality)
        selection = request.selection
        if selection is not ANY:
            mask = mask & self.mask(selection)
            if selection.max_input_usd_per_mtok < INFINITE:
                mask = mask & (self.usd_prompt <= selection.max_input_usd_per_mtok / 1e6)
            if selection.max_output_usd_per_mtok < INFINITE:
                mask = mask & (self.usd_output <= selection.max_output_usd_per_mtok / 1e6)
        if avoid:
            tried = (node.worker.id not in avoid for node in self.nodes)
            mask = mask & np.fromiter(tried, np.bool_, len(self.nodes))
        return mask

    def row(self, slot: int) -> Row:
        """One node's entries as float32 scalars: the same arithmetic on it gives bitwise the columns' results."""
        return Row(**{name: getattr(self, name)[slot] for name in _FLOATS})

    def candidates(self, request: Request, eligible: Mask, now: float) -> Candidates:
        return Candidates(self, request, eligible, now)


class Row(SimpleNamespace):
    """One slot of every column."""


def predict(view: Columns | Row, request: Request) -> tuple[Any, Any, Any]:
    """(total, first token, spread) of a request in seconds: arrays over the columns, or scalars of a row."""
    compute = view.prompt * request.prompt_tokens
    if request.items > 1:
        compute = compute + view.item * (request.items - 1)
    first = view.fixed + compute
    total = first
    if request.output_tokens:
        decode = view.output * request.output_tokens
        total = first + decode
        compute = compute + decode
    return total, first, view.spread + view.error * compute


def expected_cost(view: Columns | Row, request: Request) -> Any:
    """Expected US dollars of a request."""
    usd = view.usd + view.usd_prompt * request.prompt_tokens
    if request.items > 1:
        usd = usd + view.usd_item * (request.items - 1)
    if request.output_tokens:
        usd = usd + view.usd_output * request.output_tokens
    if request.reply_bytes:
        usd = usd + view.usd_byte * request.reply_bytes
    return usd


def in_time(view: Columns | Row, request: Request, total: Any, first: Any, spread: Any, now: float) -> Any:
    """Whether every deadline of the request is met with its probability: mean + z(p) * spread <= budget."""
    if request.patient:
        return view.wait <= request.patience
    margin = spread * Z[request.probability]
    result = total + margin <= request.deadline - now
    if request.first_token_deadline < INFINITE:
        result = result & (first + margin <= request.first_token_deadline - now)
    if request.token_interval < INFINITE:
        # A node's pace varies with its relative error, not with what waits in front of it.
        slowest = view.output * (1 + Z[request.probability] * view.error)
        result = result & (slowest <= request.token_interval)
    return result


class Candidates:
    """The nodes of one model as one request sees them: arrays with one entry per slot."""

    __slots__ = ("columns", "cost", "eligible", "fit", "request", "spread", "total")

    def __init__(self, columns: Columns, request: Request, eligible: Mask, now: float) -> None:
        total, first, spread = predict(columns, request)
        cost = expected_cost(columns, request)
        self.columns = columns
        self.request = request
        if request.max_cost < INFINITE:
            eligible = eligible & (cost <= request.max_cost)
        self.eligible: Mask = eligible
        """May take it."""
        self.fit: Mask = eligible & in_time(columns, request, total, first, spread, now)
        """May take it and is predicted to meet every deadline."""
        self.total: Floats = total
        self.spread: Floats = spread
        self.cost: Floats = cost

    def narrowed(self, keep: Mask) -> Candidates:
        """The same, with fewer nodes."""
        other = object.__new__(Candidates)
        for name in Candidates.__slots__:
            setattr(other, name, getattr(self, name))
        other.eligible, other.fit = self.eligible & keep, self.fit & keep
        return other

    def named(self, names: Sequence[str]) -> Mask:
        """Which nodes one of the names (worker id, region, cloud) means."""
        nodes = self.columns.nodes
        return np.fromiter((is_named(node.worker, names) for node in nodes), np.bool_, len(nodes))


def is_named(worker: Worker, names: Collection[str]) -> bool:
    """Whether a worker's id, region or cloud is among `names`."""
    return worker.id in names or worker.region in names or worker.cloud in names


def allows(selection: Selection, node: Node) -> bool:
    """Whether a selection admits a node, price caps aside (they depend on what was learned, not on the record)."""
    worker = node.worker
    return (
        (not selection.variants or node.endpoint.variant in selection.variants)
        and in_regions(selection, worker)
        and (not selection.only or is_named(worker, selection.only))
        and not is_named(worker, selection.ignore)
    )


def in_regions(selection: Selection, worker: Worker) -> bool:
    """Whether the worker's region matches a pattern of every group."""
    return all(any(fnmatch.fnmatchcase(worker.region, p) for p in group) for group in selection.regions)


def shortfall(candidates: Candidates, now: float) -> float:
    """Seconds by which the best eligible node misses the request's deadline, in the mean; infinite without nodes."""
    if not candidates.eligible.any():
        return math.inf
    best = float(candidates.total[candidates.eligible].min())
    return best - (candidates.request.deadline - now)
