"""Round robin: each model's nodes in turn."""

from __future__ import annotations

import random

import numpy as np

from policies.candidates import Candidates


class RoundRobin:
    """Turns are counted per model; a model that is no longer asked for costs one integer."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = np.flatnonzero(candidates.eligible)
        if len(slots) == 0:
            return None
        model = candidates.request.model
        turn = self._turns[model] = self._turns.get(model, -1) + 1
        return int(slots[turn % len(slots)])
