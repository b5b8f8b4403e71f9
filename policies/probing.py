"""How many probes decisions may ask for: a budget per worker and one for all of a gateway process.

A probe is answered from a worker's memory, yet it costs both sides a request; a load hardly changes faster than a
worker may be asked. What is over the budget is not made up for later: by then there is a newer decision.
"""

from __future__ import annotations

import math

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
