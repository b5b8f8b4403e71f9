"""SkyWalker: every region for itself, pushed only to where nothing waits; what is left over goes next door."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from loadtests.simulator.baselines import by_slot, waiting
from loadtests.simulator.baselines.holding import Patient
from policies.candidates import Candidates
from policies.masks import Mask
from policies.request import Change, Dispatch, LoadSeen
from policies.worker import WorkerState

PROBE_S = 0.1
"""Between two looks at a replica's queue."""


class SkyWalker(Patient):
    """Xia et al., "SkyWalker: a locality-aware cross-region load balancer for LLM inference" (arXiv 2505.24095), and
    `sky/serve/load_balancer.py` on SkyPilot's branch serve-multi-region-lb.

    Selective pushing: a replica is available while its queue, looked at every 100 ms, is empty; what was sent since
    the last look counts as waiting there. A request goes to an available replica of its own region, the one with the
    fewest of one's own in flight; if there is none, to one of the nearest region that has any; else it is held, first
    come first served. In its favour: other regions' replicas are looked at directly, not through their own balancers,
    which would queue what they are sent. Looks are taken as requests come, so a quiet gateway is as well informed as
    the heartbeats.
    """

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._asked: dict[str, float] = {}
        """When each worker was last asked."""
        self._sent: dict[str, int] = {}
        """Since its last report."""
        self._due: list[str] = []

    def probes(self) -> Sequence[str]:
        due, self._due = self._due, []
        return due

    def observed(self, change: Change, now: float) -> None:
        if isinstance(change, LoadSeen):
            self._sent.pop(change.load.worker, None)

    def sent(self, dispatch: Dispatch, now: float) -> None:
        worker = dispatch.node.worker.id
        self._sent[worker] = self._sent.get(worker, 0) + 1

    def until(self, candidates: Candidates) -> float | None:
        self._look(candidates)
        return None if self._available(candidates).any() else self.now + PROBE_S

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        available = self._available(candidates)
        if not available.any():  # a repeat is not held
            available = candidates.eligible
            if not available.any():
                return None
        columns = candidates.columns
        far = np.where([node.region == self._gateway for node in columns.nodes], np.float32(0.0), columns.network)
        nearest = columns.nodes[int(np.where(available, far, np.inf).argmin())].region
        here = available & np.fromiter((node.region == nearest for node in columns.nodes), np.bool_, len(columns.nodes))
        slots = here.nonzero()[0].tolist()
        least = min(columns.nodes[slot].state.in_flight for slot in slots)
        few = [slot for slot in slots if columns.nodes[slot].state.in_flight == least]
        return few[int(rng.random() * len(few))]

    def _available(self, candidates: Candidates) -> Mask:
        return candidates.eligible & (by_slot(candidates.columns, self._pending) == 0.0)

    def _pending(self, state: WorkerState) -> float:
        return waiting(state) + self._sent.get(state.record.id, 0)

    def _look(self, candidates: Candidates) -> None:
        """Ask whom nobody has asked for a while."""
        now, asked = self.now, self._asked
        for node in candidates.columns.nodes:
            worker = node.worker.id
            if now - asked.get(worker, -PROBE_S) >= PROBE_S:
                asked[worker] = now
                self._due.append(worker)
