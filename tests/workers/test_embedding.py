import numpy as np

from tests.workers.fakes import embedding_entry, serving
from workers.embedding import vectors
from workers.http import Call
from workers.queue import Refused

NO_DEADLINE = float("inf")


def call(bench, deadline=NO_DEADLINE):
    return Call("r1", bench.batcher.clock(), deadline, "")


async def test_vectors_come_in_the_order_of_the_texts_whatever_their_lengths():
    """Texts of like length run together; there are more of them than one batch takes."""
    texts = ["a" * 300, "b", "c" * 90, "d" * 2, "e" * 3, "f" * 4, "g" * 5, "h" * 200]
    entry = embedding_entry()
    async with serving(entry) as bench:
        found = await vectors(bench.batcher, entry, texts, call(bench))
        assert bench.batcher.runners[entry.lane].tally.calls >= 4
    np.testing.assert_array_equal(found.rows[:, 0], [len(text) for text in texts])
    np.testing.assert_array_equal(found.rows[:, 1], [ord(text[0]) for text in texts])
    assert found.tokens == sum(map(len, texts))
    assert found.spent.accel >= 0


async def test_what_is_too_late_is_refused():
    entry = embedding_entry()
    async with serving(entry) as bench:
        found = await vectors(bench.batcher, entry, ["a"], call(bench, deadline=bench.batcher.clock() - 1))
    assert isinstance(found, Refused)
