"""Texts to vectors for the surfaces that need them: embeddings, rerank, decisions about a text.

Many texts are several jobs, each of like lengths (lengths.py), and come back in the order they were given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policies.records import Timings
from workers.batcher import Batcher
from workers.catalog import Entry
from workers.http import Call
from workers.lengths import alike
from workers.queue import Job, Refused
from workers.refusal import answers
from workers.runners import Batched
from workers.timings import timings


class Vectors(NamedTuple):
    """A request's texts, embedded."""

    rows: np.ndarray
    """float32 [texts, width], each of length 1, in the order of the texts."""
    tokens: int
    spent: Timings


async def vectors(batcher: Batcher, entry: Entry, texts: Sequence[str], call: Call) -> Vectors | Refused:
    """Embed every text, or say why the request is refused."""
    assert isinstance(entry.runner, Batched)
    parts = alike(texts, entry.context, entry.runner.most)
    jobs = [
        Job(
            entry.lane,
            [texts[i] for i in part],
            arrived=call.arrived,
            deadline=call.deadline,
            items=len(part),
            bucket=size,
        )
        for size, part in parts
    ]
    results = await answers(batcher, jobs, call.expected_wait)
    if isinstance(results, Refused):
        return results
    order = [i for _, part in parts for i in part]
    rows = np.concatenate([rows for rows, _ in results])[np.argsort(order)]
    return Vectors(rows, sum(count for _, count in results), timings(jobs))
