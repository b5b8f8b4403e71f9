"""Which workers a decision asks for their load, and how many probes decisions may ask for.

A probe is answered from a worker's memory, yet it costs both sides a request; a load hardly changes faster than a
worker may be asked. What is over the budget is not made up for later: by then there is a newer decision.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.candidates import Candidates

PROBES = 2
"""Workers asked for their load per decision at most (algorithm.md 2.6: 1 to 3)."""
ASKING_SECONDS = 0.01
"""Between two decisions about one model that ask: so many probes a second are what a gateway may spend on them."""
PROBED = 8
"""They are drawn from so many of the cheapest in time: those the next requests go to."""
PER_WORKER = 20.0
"""A second, of one worker (algorithm.md 2.6)."""
IN_ALL = 200.0
"""A second, of all; at about 150 microseconds of CPU each, 3 % of a core."""
BURST = 20.0
"""At once after a pause: a tenth of a second's worth."""


class ProbeBudget:
    """What is left of it."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._left = BURST
        self._at = -math.inf

    def __repr__(self) -> str:
        return f"<ProbeBudget {self._left:.1f} left at {self._at:.3f}>"

    def take(self, worker_id: str, now: float) -> bool:
        """Whether this worker may be probed now; then it counts."""
        last = self._last.get(worker_id)
        if last is not None and now - last < 1.0 / PER_WORKER:
            return False
        self._left = min(BURST, self._left + (now - self._at) * IN_ALL)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        self._last[worker_id] = now
        return True

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        self._last.pop(worker_id, None)


def worth_asking(candidates: Candidates, rng: random.Random, now: float) -> tuple[str, ...]:
    """Workers worth asking for their load: random ones of those that the next such requests would go to."""
    columns = candidates.columns
    if now - columns.asked_at < ASKING_SECONDS:
        return ()
    columns.asked_at = now
    slots = candidates.fit.nonzero()[0]
    if len(slots) > PROBED:
        slots = slots[candidates.price[slots].argpartition(PROBED)[:PROBED]]
    found: tuple[str, ...] = ()
    for _ in range(min(PROBES, len(slots))):
        state = columns.nodes[slots.item(int(rng.random() * len(slots)))].state
        if state.worth_asking(now):
            state.asked_at = now
            found += (state.record.id,)
    return found
