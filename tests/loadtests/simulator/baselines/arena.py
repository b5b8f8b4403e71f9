"""One gateway's baseline over a few workers, driven by hand."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from loadtests.simulator.baselines.holding import Holding, Patient
from loadtests.simulator.contender import POLICY, Baseline, Watching
from policies.fleet import Fleet
from policies.records import Curve, Worker
from policies.request import Dispatch, LoadSeen, Outcome, RoundTrip, WorkerSeen
from tests.fleets import endpoint, load, request, worker

ENDPOINT = endpoint(curve=Curve(0.01, prefill=1e-4, decode=0.01), max_batch=8)
"""110 ms for the first token of a prompt of 1,000."""


class Arena:
    def __init__(
        self, balancer: Watching, *workers: Worker, rtt: dict[str, float] | None = None, seed: int = 1
    ) -> None:
        rng = random.Random(seed)
        kind = Holding if isinstance(balancer, Patient) else Baseline
        self.router = kind(balancer, Fleet(rng), rng)  # type: ignore[arg-type]
        self.seq: Counter[str] = Counter()
        for record in workers:
            self.router.observe(WorkerSeen(record), 0.0)
            for _ in range(20):
                self.router.observe(RoundTrip(record.id, (rtt or {}).get(record.id, 0.001)), 0.0)
            self.loaded(record.id)

    def loaded(self, name: str, now: float = 0.0, **fields: Any) -> None:
        """A report arrives."""
        self.seq[name] += 1
        self.router.observe(LoadSeen(load(name, self.seq[name], **fields), 0.0), now)

    def route(self, now: float = 0.0, **fields: Any) -> Any:
        defaults = {"policy": POLICY, "prompt_tokens": 1000.0, "output_tokens": 100.0, "stream": True, "arrived": now}
        return self.router.route(request(**(defaults | fields)), now)

    def send(self, now: float = 0.0, **fields: Any) -> Dispatch:
        decision = self.route(now, **fields)
        assert isinstance(decision, Dispatch), decision
        return decision

    def answer(self, dispatch: Dispatch, now: float, **fields: Any) -> None:
        defaults = {"total": now - dispatch.at, "first_byte": now - dispatch.at, "output_tokens": 10}
        self.router.report(dispatch, Outcome(**(defaults | fields)), now)

    def spread(self, times: int, **fields: Any) -> Counter[str]:
        """Where so many requests go that are answered at once."""
        places: Counter[str] = Counter()
        for _ in range(times):
            dispatch = self.send(**fields)
            places[dispatch.node.worker.id] += 1
            self.router.report(dispatch, Outcome(total=0.0), 0.0)
        return places


def three(**fields: Any) -> tuple[Worker, ...]:
    """Equal workers a, b and c."""
    return tuple(worker(name, endpoints=(ENDPOINT,), **fields) for name in "abc")
