import aiohttp
import numpy as np
import pytest

from tests.workers.fakes import endpoint, serving, tensor_entry
from workers.catalog import EMBEDDING, Entry
from workers.rerank import cosines
from workers.runners import Batched

COMPASS = {"north": (0, 1), "north-east": (0.6, 0.8), "east": (1, 0), "south": (0, -1)}


def compass_entry():
    """Embeds names of directions as what they point to."""
    served = endpoint("compass", task="embedding")

    def embed(works):
        return [(np.array([COMPASS[text] for text in work], np.float32), 2 * len(work)) for work in works]

    return Entry(served, EMBEDDING, Batched(served, embed))


async def rerank(bench, **fields):
    body = {"model": "compass", "query": "north", "documents": ["south", "east", "north", "north-east"]} | fields
    async with aiohttp.ClientSession() as session, session.post(f"{bench.url}/v1/rerank", json=body) as reply:
        return reply.status, await reply.json()


async def test_documents_come_by_likeness_with_their_places():
    async with serving(compass_entry()) as bench:
        status, reply = await rerank(bench)
    assert status == 200
    assert [(one["index"], one["document"]["text"]) for one in reply["results"]] == [
        (2, "north"), (3, "north-east"), (1, "east"), (0, "south"),
    ]  # fmt: skip
    assert [one["relevance_score"] for one in reply["results"]] == pytest.approx([1, 0.8, 0, -1])
    assert (reply["model"], reply["usage"]["total_tokens"]) == ("compass", 10)


async def test_the_best_alone_without_their_texts_and_documents_as_objects():
    async with serving(compass_entry()) as bench:
        _, reply = await rerank(bench, top_n=1, return_documents=False, documents=[{"text": "east"}, {"text": "north"}])
    assert [sorted(one) for one in reply["results"]] == [["index", "relevance_score"]]
    assert reply["results"][0]["index"] == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["east", {"title": "north"}]}, "documents[1]"),
        ({"documents": ["east", ""]}, "documents[1]"),
        ({"top_n": 0}, "top_n"),
        ({"documents": "east"}, "documents"),
        ({"model": "double"}, "model"),
    ],
)
async def test_what_is_wrong_is_named(fields, param):
    async with serving(compass_entry(), tensor_entry()) as bench:
        status, reply = await rerank(bench, **fields)
    assert (status, reply["error"]["param"]) == (400, param)


def test_rounding_leads_to_no_cosine_beyond_one():
    near = np.array([1.0000001, 0], np.float32)
    assert cosines(near, np.stack([near, -near])).tolist() == [1.0, -1.0]
