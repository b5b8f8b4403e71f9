import math

import aiohttp
import pytest

from policies.reason import Reason
from policies.reports import decode_report
from tests.workers.fakes import embedding_entry, serving, tensor_entry, text_entry
from workers.batcher import Batcher
from workers.queue import Job, Queue, State
from workers.refusal import FAR_OFF, UNTOLD, early

NOW = 100.0
WAIT = 0.25
"""Seconds that ten full batches of the tensor model take."""


def worker(entry, waiting):
    """A worker whose accelerator does nothing: what waits, waits."""
    batcher = Batcher({entry.lane: entry.runner}, Queue(999), lambda: NOW)
    assert batcher.queue.push(waiting)
    return batcher


def tensor(budget, items=1):
    return Job("double:fp32", None, arrived=NOW, deadline=NOW + budget, items=items)


def text(budget=math.inf, first=math.inf, prompt=100):
    return Job(
        "echo:fp32", None, arrived=NOW, deadline=NOW + budget, first_deadline=NOW + first, prompt_tokens=prompt,
        output_tokens=50,
    )  # fmt: skip


@pytest.fixture
def busy():
    return worker(tensor_entry(), [tensor(0.1, items=4) for _ in range(10)])


def test_what_was_thought_to_be_in_time_and_cannot_be_is_refused_unexecuted(busy):
    job = tensor(0.2)
    refused = early(busy, [job], 0.0)
    assert (refused.reason, refused.executed) == (Reason.DEADLINE_EXCEEDED, False)
    assert refused.message == "This worker's queue takes 250 ms, not 0: too long for the deadline."
    assert job.state is State.ENDED
    assert busy.runners["double:fp32"].tally.ended == {"deadline_exceeded": 1}
    assert len(busy.queue) == 10


def test_what_can_be_in_time_is_taken(busy):
    assert early(busy, [tensor(WAIT + 0.02)], 0.0) is None


def test_a_gateway_that_knew_is_believed(busy):
    """It counted on about such a wait, and promised nevertheless: its errors are in its promises."""
    knew = (WAIT - UNTOLD) / FAR_OFF
    assert early(busy, [tensor(0.2)], knew * 1.01) is None
    assert early(busy, [tensor(0.2)], knew * 0.99) is not None


@pytest.mark.parametrize(("budget", "expected"), [(0.2, None), (math.inf, 0.0)], ids=["best effort", "patient"])
def test_without_a_promise_nothing_is_refused_early(busy, budget, expected):
    assert early(busy, [tensor(budget)], expected) is None


def test_only_what_comes_before_it_is_in_its_way():
    behind = worker(tensor_entry(), [tensor(50.0, items=4) for _ in range(10)])
    assert early(behind, [tensor(0.2)], 0.0) is None


def test_all_parts_of_a_request_count(busy):
    parts = [tensor(WAIT + 0.08, items=4) for _ in range(4)]
    assert early(busy, parts[:2], 0.0) is None
    assert early(busy, parts, 0.0) is not None
    assert {job.state for job in parts} == {State.ENDED}


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (text(budget=60.0, first=1.0), True),
        (text(budget=60.0, first=4.0), False),
        (text(budget=1.0), True),
        (text(budget=4.0), False),  # who knows how soon it stops
    ],
)
def test_a_text_is_refused_by_the_first_token_it_can_have(asked, refused):
    """Two slots, and ten who wait for them: 0.1 s of prefill and fifty tokens of 10 ms each, 3 s in all."""
    batcher = worker(text_entry(), [text(budget=0.5) for _ in range(10)])
    assert (early(batcher, [asked], 0.0) is not None) is refused


ONE = {"shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}
KEY = {"name": "k", "shape": [1, 1], "datatype": "INT64", "data": [1]}


@pytest.mark.parametrize(
    ("entry", "path", "body"),
    [
        (tensor_entry, "/v2/models/double/infer", {"inputs": [{"name": "x", **ONE}, KEY]}),
        (embedding_entry, "/v1/embeddings", {"model": "lengths", "input": ["a"]}),
        (text_entry, "/v1/completions", {"model": "echo", "prompt": "a", "max_tokens": 5}),
    ],
)
async def test_every_surface_says_no_with_what_its_queue_is_like(entry, path, body):
    made = entry()
    async with serving(made, executing=False) as bench, aiohttp.ClientSession() as session:
        now = bench.batcher.clock()
        ahead = [Job(made.lane, None, arrived=now, deadline=now, items=4, output_tokens=50) for _ in range(40)]
        assert bench.batcher.queue.push(ahead)
        told = {"x-deadline-ms": "300", "x-isochrone-wait-ms": "1", "endpoint-load-metrics-format": "JSON"}
        async with session.post(bench.url + path, json=body, headers=told) as no:
            assert (no.status, no.headers["x-isochrone-executed"]) == (504, "0")
            assert "not 1: too long" in await no.text()
            report = decode_report(no.headers["endpoint-load-metrics"].encode())
        assert (report.waiting, report.backlog > 0.3) == (40, True)
