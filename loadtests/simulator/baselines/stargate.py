"""NVIDIA Stargate: the first token's estimate by power of n, and wait-and-widen with its holding."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np

from loadtests.simulator.baselines import by_slot
from loadtests.simulator.baselines.holding import Patient
from loadtests.simulator.contender import Watching
from policies.candidates import Candidates
from policies.columns import Floats
from policies.node import Node
from policies.request import Change, Dispatch, LoadSeen, RoundTrip
from policies.worker import WorkerState

SAMPLED = 64
"""`n` of power-of-n: 2 by default, 64 at most. Tuned: 96 % in deadline, 95 with 32, 86 with 8, 49 with 2."""
SHUFFLED = 2
"""`n` of wait-and-widen. With 8 it is the same within a tenth of a point."""
BUCKET_S = 0.020
"""`ttft_bucket_size_ms`."""
UNLOCK = 0.25
"""`next_bucket_unlock_factor`: how long to wait for a better node, as a share of what it is better by."""
AGAIN_S = 0.1
"""When nobody unlocked has capacity and no bucket is left to unlock."""


class Estimates:
    """Stargate's view of a node: the last round trip + published queue delay + prefill, and its own reservations.

    `stargate/src/load_balancer/` and `docs/load-balancer-configuration.md` of NVIDIA/nvcf: the round trip is the last
    raw sample; tokens sent since the last report are added to the queue until the next one; a node without a free slot
    has no capacity. Theirs reports in heartbeats; here answers bring reports too, where the world has it so.
    """

    def __init__(self) -> None:
        self._round_trips: dict[str, float] = {}
        self._reserved: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        """Tokens and requests sent since the last report."""

    def observed(self, change: Change) -> None:
        if isinstance(change, RoundTrip):
            self._round_trips[change.worker_id] = change.seconds
        elif isinstance(change, LoadSeen):
            self._reserved.pop(change.load.worker, None)

    def sent(self, dispatch: Dispatch) -> None:
        entry = self._reserved[dispatch.node.worker.id]
        entry[0] += dispatch.request.prompt_tokens
        entry[1] += 1.0

    def queue(self, node: Node) -> float:
        """Seconds."""
        state = node.state
        load = state.load
        backlog = 0.0 if load is None or load.backlog is None else load.backlog
        entry = self._reserved.get(state.record.id)
        return backlog + (entry[0] * node.endpoint.curve.prefill if entry else 0.0)

    def first_token(self, node: Node, prompt: float) -> float:
        rtt = self._round_trips.get(node.worker.id, node.state.rtt.mean)
        return rtt + self.queue(node) + node.endpoint.curve.base + prompt * node.endpoint.curve.prefill

    def share(self, state: WorkerState) -> float:
        """Of its slots in use; 1 and more means no capacity."""
        load = state.load
        running = 0 if load is None else (load.running or 0) + (load.waiting or 0)
        entry = self._reserved.get(state.record.id)
        return (running + (entry[1] if entry else 0.0)) / state.slots


class PowerOfN(Watching):
    """`power-of-n` with the `ttft` comparator: of n random nodes the lowest estimate, full ones last."""

    def __init__(self) -> None:
        self._estimates = Estimates()

    def observed(self, change: Change, now: float) -> None:
        self._estimates.observed(change)

    def sent(self, dispatch: Dispatch, now: float) -> None:
        self._estimates.sent(dispatch)

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = candidates.eligible.nonzero()[0].tolist()
        if not slots:
            return None
        nodes, prompt, estimates = candidates.columns.nodes, candidates.request.prompt_tokens, self._estimates

        def estimate(slot: int) -> tuple[bool, float]:
            return estimates.share(nodes[slot].state) >= 1.0, estimates.first_token(nodes[slot], prompt)

        return min(rng.sample(slots, min(SAMPLED, len(slots))), key=estimate)


class WaitAndWiden(Patient):
    """`wait-and-widen`: the best nodes at once, worse ones only to requests that have waited for them.

    Nodes in the order of their estimates form buckets 20 ms wide; the next bucket is unlocked when the request is a
    quarter of the gap between the two old, gaps being added up. Of the unlocked ones with capacity, two at random, and
    of these the one with the shorter queue, then with the fewer slots in use. If none has capacity, it waits.
    """

    def __init__(self) -> None:
        self._estimates = Estimates()

    def observed(self, change: Change, now: float) -> None:
        self._estimates.observed(change)

    def sent(self, dispatch: Dispatch, now: float) -> None:
        self._estimates.sent(dispatch)

    def until(self, candidates: Candidates) -> float | None:
        open_slots, unlocks = self._unlocked(candidates)
        if open_slots:
            return None
        return max(unlocks, self.now + 1e-3) if unlocks < np.inf else self.now + AGAIN_S

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        open_slots, _ = self._unlocked(candidates)
        if not open_slots:  # a repeat does not wait
            open_slots = candidates.eligible.nonzero()[0].tolist()
            if not open_slots:
                return None
        nodes, estimates = candidates.columns.nodes, self._estimates

        def shorter(slot: int) -> tuple[float, float]:
            return estimates.queue(nodes[slot]), estimates.share(nodes[slot].state)

        return min(rng.sample(open_slots, min(SHUFFLED, len(open_slots))), key=shorter)

    def _unlocked(self, candidates: Candidates) -> tuple[list[int], float]:
        """Slots unlocked and with capacity, and when the next bucket unlocks."""
        request, nodes = candidates.request, candidates.columns.nodes
        slots = candidates.eligible.nonzero()[0]
        prompt = request.prompt_tokens
        firsts = self._first_tokens(nodes, slots.tolist(), prompt)
        order = np.argsort(firsts, kind="stable")
        firsts, slots = firsts[order], slots[order]
        unlocks, start, count = request.arrived, firsts[0] if len(firsts) else 0.0, 0
        while True:
            bucket = int(np.searchsorted(firsts, start + BUCKET_S, side="right"))
            count = bucket
            if bucket >= len(firsts):
                unlocks = np.inf
                break
            unlocks += float(firsts[bucket] - start) * UNLOCK
            if unlocks > self.now:
                break
            start = firsts[bucket]
        shares = by_slot(candidates.columns, self._estimates.share)
        return [slot for slot in slots[:count].tolist() if shares[slot] < 1.0], unlocks

    def _first_tokens(self, nodes: list[Node], slots: list[int], prompt: float) -> Floats:
        estimate = self._estimates.first_token
        return np.array([estimate(nodes[slot], prompt) for slot in slots], np.float32)
