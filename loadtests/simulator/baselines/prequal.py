"""Prequal: a pool of answered probes, hot and cold by requests in flight, the soonest of the cold."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from loadtests.simulator.baselines import Directory, idle_first_token
from loadtests.simulator.contender import Watching
from policies.candidates import Candidates
from policies.columns import Floats
from policies.request import Change, LoadSeen

HOT = 0.84
"""Quantile of requests in flight above which a replica counts as hot: 2**-0.25, the paper's best."""
POOL = 16
PROBES = 3
"""Per request."""
REMOVED = 1
"""Answers removed per request, beside those used up: the worst and the oldest in turn."""
DELTA = 3.0
"""Of the reuse budget. Tuned: with the paper's 1 a good answer is gone after one use, which costs 6 points here, where
replicas differ by distance and speed as well and sixteen answers hold few good ones."""
OLDEST_S = 1.0
FEWEST = 2
"""With fewer answers in the pool, a replica is taken at random."""
REMEMBERED = 128
"""Answers whose requests in flight make the distribution that HOT is a quantile of."""


class Answer:
    """What a probed worker said."""

    __slots__ = ("at", "in_flight", "uses", "wait", "worker")

    def __init__(self, worker: str, in_flight: float, wait: float, at: float, uses: int) -> None:
        self.worker = worker
        self.in_flight = in_flight
        self.wait = wait
        self.at = at
        self.uses = uses


class Prequal(Watching):
    """Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: Introducing Prequal" (NSDI 2024).

    Each request sends three probes to random replicas, for those after it, and is itself sent by the pool's answers:
    hot ones (in flight above the 0.84 quantile of what was answered of late) only if all are, and then the one with
    the fewest; else the cold one of the lowest latency. In the answer that was used, requests in flight grow by one;
    it may be used b = (1 + delta) / ((1 - pool/replicas) * probes - removed) times, rounded at random. Per request
    one more is removed, the worst and the oldest in turn; so is what is older than a second.

    In its favour: latency is not estimated from past requests at that load but is the backlog that the worker knows,
    network and the request's own prefill on that node; in flight is the share of the worker's slots, since here
    replicas are of three sizes; and what a use adds to the backlog is remembered too.
    """

    def __init__(self) -> None:
        self._pool: list[Answer] = []
        self._asked: set[str] = set()
        self._probes: list[str] = []
        self._levels: deque[float] = deque(maxlen=REMEMBERED)
        self._directory = Directory()
        self._slots: dict[str, int] = {}
        """Of workers that were asked."""
        self._replicas = 0
        self._chance: random.Random | None = None
        self._removals = 0

    # Probes.

    def probes(self) -> Sequence[str]:
        probes, self._probes = self._probes, []
        self._asked.update(probes)
        return probes

    def observed(self, change: Change, now: float) -> None:
        if not isinstance(change, LoadSeen) or change.load.worker not in self._asked:
            return
        load = change.load
        self._asked.remove(load.worker)
        in_flight = ((load.waiting or 0) + (load.running or 0)) / self._slots[load.worker]
        self._levels.append(in_flight)
        if len(self._pool) >= POOL:
            self._pool.remove(min(self._pool, key=_age))
        self._pool.append(Answer(load.worker, in_flight, load.backlog or 0.0, now, self._uses()))

    def _uses(self) -> int:
        spare = (1.0 - POOL / max(self._replicas, POOL + 1)) * PROBES - REMOVED
        budget = max(1.0, (1.0 + DELTA) / spare) if spare > 0.0 else POOL
        whole = int(budget)
        assert self._chance is not None
        return whole + (self._chance.random() < budget - whole)

    # Picking.

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = candidates.eligible.nonzero()[0].tolist()
        if not slots:
            return None
        self._ask(candidates, slots, rng)
        usable = self._usable(candidates)
        if len(usable) < FEWEST:
            return slots[int(rng.random() * len(slots))]
        idle = idle_first_token(candidates)
        slot, answer = self._choose(usable, idle)
        self._use(candidates, slot, answer)
        self._tidy(usable, idle)
        return slot

    def _ask(self, candidates: Candidates, slots: list[int], rng: random.Random) -> None:
        nodes = candidates.columns.nodes
        self._chance, self._replicas = rng, len(slots)
        asked = {nodes[slot].worker.id: nodes[slot].state.slots for slot in rng.sample(slots, min(PROBES, len(slots)))}
        self._slots.update(asked)
        self._probes = list(asked)

    def _usable(self, candidates: Candidates) -> list[tuple[int, Answer]]:
        """Answers in the pool, with the eligible endpoint of each that is first in its worker's record."""
        oldest = self.now - OLDEST_S
        self._pool = [answer for answer in self._pool if answer.at >= oldest]
        usable = []
        for answer in self._pool:
            for slot in self._directory.slots(candidates.columns, answer.worker):
                if candidates.eligible[slot]:
                    usable.append((slot, answer))
                    break
        return usable

    def _choose(self, usable: list[tuple[int, Answer]], idle: Floats) -> tuple[int, Answer]:
        hot = self._hot()
        cold = [entry for entry in usable if entry[1].in_flight <= hot]
        if cold:
            return min(cold, key=lambda entry: entry[1].wait + float(idle[entry[0]]))
        return min(usable, key=lambda entry: entry[1].in_flight)

    def _hot(self) -> float:
        levels = sorted(self._levels)
        return levels[min(int(HOT * len(levels)), len(levels) - 1)]

    def _use(self, candidates: Candidates, slot: int, answer: Answer) -> None:
        node = candidates.columns.nodes[slot]
        answer.in_flight += 1.0 / node.state.slots
        answer.wait += node.seconds(candidates.request, 0.0) * node.speed.factor
        answer.uses -= 1
        if answer.uses <= 0:
            self._pool.remove(answer)

    def _tidy(self, usable: list[tuple[int, Answer]], idle: Floats) -> None:
        """Remove the worst and the oldest in turn, so that the pool does not fill up with what nobody wants."""
        for _ in range(REMOVED):
            left = [entry for entry in usable if entry[1].uses > 0]
            if len(left) <= FEWEST:
                return
            self._removals += 1
            gone = min(left, key=lambda entry: entry[1].at) if self._removals % 2 else self._worst(left, idle)
            usable.remove(gone)
            self._pool.remove(gone[1])

    def _worst(self, left: list[tuple[int, Answer]], idle: Floats) -> tuple[int, Answer]:
        """The hot one with most in flight; without hot ones the last to be ready."""
        most = max(left, key=lambda entry: entry[1].in_flight)
        if most[1].in_flight > self._hot():
            return most
        return max(left, key=lambda entry: entry[1].wait + float(idle[entry[0]]))


def _age(answer: Answer) -> float:
    return answer.at
