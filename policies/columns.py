"""The nodes of one model as float32 columns.

A `Node` is a view on one slot. `touch` writes a slot after a change; a request is evaluated over all slots by one
matrix product and a few vector operations (candidates.py), from the same numbers the readable oracle in
`balancers/pipeline.py` reads slot by slot. Each operation costs 0.1 to 0.6 us however few the nodes, so they are few.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.calibrate import Calibration
from policies.health import State
from policies.masks import Mask, Masks
from policies.node import Node
from policies.records import ReservedPrice
from policies.request import ANY, INFINITE, Request

Floats = npt.NDArray[np.float32]
Seconds = npt.NDArray[Any]

# A request is a vector of terms; a matrix, two columns per node, turns it into seconds at z spreads above the mean and
# US dollars. What few requests have comes last, so that the others leave it out.
_TERMS = (
    # term, what it adds to the seconds, what to the dollars
    ("1", "fixed", "usd"),
    ("prompt tokens", "prompt", "usd_prompt"),
    ("output tokens", None, "usd_output"),
    ("output tokens + z * their deviation", "output", None),
    ("z", "spread", None),
    ("z * prompt tokens", "spread_prompt", None),
    ("z * output tokens", "spread_output", None),
    ("reply bytes", None, "usd_byte"),
    ("further items", "item", "usd_item"),
    ("z * further items", "spread_item", None),
)
_write = struct.Struct(f"{len(_TERMS)}f").pack_into
_USUAL = 8
"""Terms that count where there are no further items."""
_FLOATS = ("wait", "network", "error", "quality", "congestion", "headroom", "strangers", "worth")
_FLAGS = (
    "accepts",  # may be sent a request now
    "reachable",  # not draining: what is left to try in panic
    "reserved",  # paid for already
)
CONGESTION_SECONDS = 0.1
"""Wait at which a node counts as twice as dear (algorithm.md 2.7, w0): drift plus penalty, the queue as the price of
capacity. Without it patient requests fill the cheapest nodes up to their deadlines, and tight ones starve."""
RATE_SECONDS = 2.0
"""Time constant of the rate of our own requests."""
_START = 8
"""Slots allocated for a new model."""
_GROWTH = 1.25
"""Unused slots take part in the product, so little more is allocated than needed."""
_ASKED = 64
"""Nodes whose ages are averaged at most; only the scale of the mean matters."""


class Columns:
    """One model's nodes. `nodes[i]` is described by entry i of every column."""

    fixed: Floats
    """Network, wait and base compute: seconds every request takes."""
    prompt: Floats
    """Seconds per prompt token."""
    output: Floats
    """Seconds per output token, whether expected or by which the output may be longer."""
    item: Floats
    """Seconds per further item."""
    spread: Floats
    """Standard deviation that every request has; the `spread_*` columns are what its parts add."""
    spread_prompt: Floats
    spread_output: Floats
    spread_item: Floats
    usd: Floats
    usd_prompt: Floats
    usd_output: Floats
    usd_item: Floats
    usd_byte: Floats
    wait: Floats
    network: Floats
    error: Floats
    """Relative deviation of the compute time."""
    quality: Floats
    congestion: Floats
    """What a wait makes of a price: 1 without one."""
    headroom: Floats
    """Requests it can take before anybody hears of them without a wait that is felt."""
    strangers: Floats
    """Requests a second that others send there."""
    worth: Floats
    """What a second of a reserved node is worth, as a share of its price, as the dollars show it."""
    accepts: Mask
    reachable: Mask
    reserved: Mask

    def __init__(self, model: str, calibration: Calibration) -> None:
        self.model = model
        self.calibration = calibration
        self.nodes: list[Node] = []
        self.in_service = 0
        """Nodes not out for bad health."""
        self.draining = 0
        self.routed = 0
        """Requests routed so far."""
        self.unseen = 0.0
        """Requests that all gateways send before any of them sees the effect, as of the last tick."""
        self.asked_at = -math.inf
        """When a decision last had workers asked for their load."""
        self._rate = 0.0
        self._ticked = (0, -math.inf)
        """Requests routed by the last tick, and when that was."""
        self.masks = Masks(self.nodes)
        self._written = bytearray(4 * len(_TERMS))
        """The terms, which are written at once; one by one into the array, they would cost five times as much."""
        self._terms: Floats = np.frombuffer(self._written, np.float32)
        self._usual_terms = self._terms[:_USUAL]
        self.limit: Floats = np.zeros((), np.float32)
        """A number to compare with: half as dear as a Python float."""
        self._outstanding: Floats
        self.changed: dict[Node, float] = {}
        """Nodes of which something has changed that is not written yet, and when it last did."""
        self.recount: dict[Node, float] = {}
        """Nodes with other requests outstanding than `_outstanding` says, and since when: few balancers ask."""
        self._allocate(_START)

    def _allocate(self, capacity: int) -> None:
        """Make room, keeping what is there."""
        old, size = getattr(self, "_store", None), len(self.nodes)
        self._capacity = capacity
        self._matrix: Floats = np.zeros((len(_TERMS), 2 * capacity), np.float32)
        self._usual_matrix = self._matrix[:_USUAL]
        self._store: dict[str, npt.NDArray[Any]] = {}
        for row, (_, seconds, dollars) in zip(self._matrix, _TERMS, strict=True):
            if seconds is not None:
                self._store[seconds] = row[:capacity]
            if dollars is not None:
                self._store[dollars] = row[capacity:]
        self._store |= {name: np.zeros(capacity, np.float32) for name in (*_FLOATS, "_outstanding")}
        self._store |= {name: np.zeros(capacity, np.bool_) for name in _FLAGS}
        if old is not None:
            for name, column in self._store.items():
                column[:size] = old[name][:size]
        self._fit_views()

    def _fit_views(self) -> None:
        """Point the attributes at as much of the store as there are nodes, so that no request slices them."""
        size = len(self.nodes)
        for name, column in self._store.items():
            setattr(self, name, column[:size])
        self.masks.forget()

    def add(self, node: Node, now: float) -> None:
        """Append a node."""
        size = len(self.nodes)
        if size == self._capacity:
            self._allocate(int(size * _GROWTH) + 1)
        node.columns, node.slot = self, size
        self.nodes.append(node)
        self._fit_views()
        self.describe(node)
        self.touch(node, now)

    def remove(self, node: Node) -> None:
        """Take a node out; the last one moves into its slot."""
        self._count(node, healthy=False, draining=False)
        self.recount.pop(node, None)
        self.changed.pop(node, None)
        last = self.nodes.pop()
        if last is not node:
            for column in self._store.values():
                column[node.slot] = column[last.slot]
            self.nodes[node.slot] = last
            last.slot = node.slot
        for column in self._store.values():
            column[len(self.nodes)] = 0
        node.columns, node.slot = None, -1
        self._fit_views()

    def describe(self, node: Node) -> None:
        """Write what changes with a node's record, learned speed and price."""
        i, factor, error, curve = node.slot, node.speed.factor, node.speed.error, node.endpoint.curve
        self.prompt[i] = curve.prefill * factor
        self.item[i] = curve.item * factor
        self.spread_prompt[i] = curve.prefill * factor * error
        self.spread_item[i] = curve.item * factor * error
        self.error[i] = node.pace.error
        if curve.decode:
            self._set_pace(node)
        self.set_price(node)
        self.quality[i] = node.endpoint.quality

    def catch_up(self) -> None:
        """Write what has changed. A decision wants it, so that several changes of one node cost one writing."""
        for node, now in self.changed.items():
            self.touch(node, now)
        self.changed.clear()

    def touch(self, node: Node, now: float) -> None:
        """Write what changes with load, round trips and health."""
        i, state, speed, curve = node.slot, node.state, node.speed, node.endpoint.curve
        wait, unheard = state.wait(now), state.unheard(now)
        network = state.rtt.mean + state.overhead.mean
        base = curve.base * speed.factor
        state.shown_wait, state.shown_at = wait, now
        self.wait[i] = wait
        self.network[i] = network
        self.fixed[i] = network + wait + base
        self.spread[i] = state.doubt(wait, unheard) + speed.error * base
        self.congestion[i] = 1.0 + wait / CONGESTION_SECONDS
        self.headroom[i] = state.headroom(wait, unheard)
        self.strangers[i] = state.strangers / len(state.nodes)
        if curve.decode:
            self._set_pace(node)
        self.recount[node] = now
        self.accepts[i] = state.accepts(now)
        health = state.health.state
        draining = health is State.DRAINING
        self.reachable[i] = not draining
        self._count(node, healthy=health is State.SERVING or health is State.PROBING, draining=draining)

    def set_price(self, node: Node) -> None:
        """Write what a request is charged."""
        i = node.slot
        self.usd[i], self.usd_prompt[i], self.usd_output[i], self.usd_item[i], self.usd_byte[i] = node.rates
        self.worth[i] = node.worth
        self.reserved[i] = isinstance(node.worker.price, ReservedPrice)

    def _set_pace(self, node: Node) -> None:
        """Write what an output token takes beside what runs there now."""
        self.output[node.slot] = seconds = node.token_seconds()
        self.spread_output[node.slot] = seconds * node.pace.error

    def tick(self, now: float) -> None:
        """Count what was routed and what strangers sent, over the age of what is known of them (algorithm.md 2.6)."""
        routed, at = self._ticked
        span = now - at
        if span <= 0.0:
            return
        if span < math.inf:
            gain = 1.0 - math.exp(-span / RATE_SECONDS)
            self._rate += gain * ((self.routed - routed) / span - self._rate)
        self._ticked = self.routed, now
        unheard = [node.state.unheard(now) for node in self.nodes[:: len(self.nodes) // _ASKED + 1]]
        self.unseen = (self._rate + float(self.strangers.sum())) * (sum(unheard) / len(unheard))

    @property
    def outstanding(self) -> Floats:
        """Requests waiting and running."""
        for node, now in self.recount.items():
            self._outstanding[node.slot] = node.state.outstanding(now)
        self.recount.clear()
        return self._outstanding

    def _count(self, node: Node, *, healthy: bool, draining: bool) -> None:
        """Keep the numbers of nodes in service and draining."""
        if healthy is not node.counted:
            self.in_service += healthy - node.counted
            node.counted = healthy
        if draining is not node.counted_draining:
            self.draining += draining - node.counted_draining
            node.counted_draining = draining

    def eligible(self, request: Request, quality: float, avoid: Collection[str], panic_share: float) -> Mask:
        """Which nodes may take the request at all, deadlines aside."""
        if self.changed:
            self.catch_up()
        mask = self.accepts
        if self.in_service < panic_share * (len(self.nodes) - self.draining):
            mask = self.reachable  # panic: so much bad health means that the health data is wrong
        if quality > 0.0:
            mask = mask & self.masks.reaching(quality)
        selection = request.selection
        if selection is not ANY:
            mask = mask & self.masks.selected(selection)
            if selection.max_input_usd_per_mtok < INFINITE:
                mask = mask & (self.usd_prompt <= selection.max_input_usd_per_mtok / 1e6)
            if selection.max_output_usd_per_mtok < INFINITE:
                mask = mask & (self.usd_output <= selection.max_output_usd_per_mtok / 1e6)
        if avoid:
            mask = mask & ~self.masks.named(avoid)
        return mask

    def at(self, request: Request, output_tokens: float, z: float) -> tuple[Floats, Floats]:
        """Seconds at z spreads above the mean, and US dollars, on every node, for an output of so many tokens."""
        prompt, items = request.prompt_tokens, request.items - 1
        # Nothing varies of what is not generated.
        longest = output_tokens + z * request.output_deviation if output_tokens else 0.0
        _write(
            self._written, 0, 1.0, prompt, output_tokens, longest, z, z * prompt, z * output_tokens,
            request.reply_bytes, items, z * items,
        )  # fmt: skip
        if items:
            both: Floats = self._terms.dot(self._matrix)
        else:
            both = self._usual_terms.dot(self._usual_matrix)
        size, capacity = len(self.nodes), self._capacity
        return both[:size], both[capacity : capacity + size]

    def evaluate(self, request: Request, output_tokens: float) -> tuple[Floats, Floats, Floats]:
        """Seconds in the mean, seconds of spread, and US dollars on every node, for an output of so many tokens."""
        prompt, items, size = request.prompt_tokens, request.items - 1, len(self.nodes)
        longer = request.output_deviation if output_tokens else 0.0
        total_and_cost = 1.0, prompt, output_tokens, output_tokens, 0.0, 0.0, 0.0, request.reply_bytes, items, 0.0
        spread = 0.0, 0.0, 0.0, longer, 1.0, prompt, output_tokens, 0.0, 0.0, items
        both: Floats = np.array((total_and_cost, spread), np.float32).dot(self._matrix)
        return both[0, :size], both[1, :size], both[0, self._capacity : self._capacity + size]
