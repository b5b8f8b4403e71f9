"""Random, and the lowest price: what looks neither at load nor at the clock."""

from __future__ import annotations

import random

import numpy as np

from loadtests.simulator.baselines import by_slot
from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.records import TokenPrice
from policies.worker import WorkerState


class Random(Watching):
    """Every eligible node is as likely: the floor under everything else."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        slots = np.flatnonzero(candidates.eligible)
        return int(slots[int(rng.random() * len(slots))]) if len(slots) else None


class LowestPrice(Watching):
    """The node with the lowest price on its tag, as "cheapest" is usually configured; equals share at random."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        return lowest(candidates.eligible, by_slot(candidates.columns, tag), rng)


def tag(state: WorkerState) -> float:
    """US dollars per hour, or per million tokens in and out: compared as numbers, like with like."""
    price = state.record.price
    if isinstance(price, TokenPrice):
        return price.input_usd_per_mtok + price.output_usd_per_mtok
    return price.usd_per_hour
