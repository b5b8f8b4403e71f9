import asyncio
import contextlib
import math
import threading

import numpy as np
import pytest

from policies.reason import Reason
from tests.workers.fakes import Doubler, Echo, endpoint, tensor_entry, text_entry, until
from workers.batcher import Batcher, timed
from workers.catalog import TENSOR, Entry
from workers.engines.text import Sampling
from workers.queue import Job, Queue, Refused, Token
from workers.runners import Batched, Generation


@contextlib.asynccontextmanager
async def batching(*entries, limit=16, running=True):
    batcher = Batcher({entry.lane: entry.runner for entry in entries}, Queue(limit))
    turns = asyncio.ensure_future(batcher.run()) if running else None
    try:
        yield batcher
    finally:
        if turns:
            turns.cancel()
            await asyncio.wait([turns])
        batcher.close()


def tensor(batcher, value=1.0, deadline=math.inf, lane="double:fp32"):
    work = {"x": np.full((1, 2), value, np.float32), "k": np.zeros((1, 1), np.int64)}
    return Job(lane, work, arrived=batcher.clock(), deadline=deadline)


def text(batcher, prompt=(1,), tokens=4):
    work = Generation(list(prompt), Sampling(max_tokens=tokens))
    return Job("echo:fp32", work, arrived=batcher.clock(), prompt_tokens=len(prompt), output_tokens=tokens)


async def test_what_arrives_while_the_accelerator_is_busy_is_one_batch_afterwards():
    engine = Doubler()
    engine.gate.clear()
    async with batching(tensor_entry(engine)) as batcher:
        first = asyncio.ensure_future(batcher.results([tensor(batcher)]))
        await until(lambda: batcher.runners["double:fp32"].running)
        rest = [asyncio.ensure_future(batcher.results([tensor(batcher, n)])) for n in range(3)]
        await until(lambda: len(batcher.queue) == 3)
        engine.gate.set()
        answers = await asyncio.gather(first, *rest)
    assert engine.batches == [1, 3]
    assert [float(answer[0]["y"][0, 0]) for answer in answers] == [2.0, 0.0, 2.0, 4.0]


async def test_the_most_urgent_of_several_endpoints_runs_first():
    fast, slow = Doubler(), Doubler()
    order = []
    entries = [tensor_entry(fast, "double", "int8"), tensor_entry(slow, "double", "fp32")]
    for name, engine in (("int8", fast), ("fp32", slow)):
        engine.run = lambda works, name=name, engine=engine: (order.append(name), Doubler.run(engine, works))[1]
    entries = [tensor_entry(fast, "double", "int8"), tensor_entry(slow, "double", "fp32")]
    async with batching(*entries, running=False) as batcher:
        now = batcher.clock()
        batcher.submit([tensor(batcher, deadline=now + 20, lane="double:int8")])
        batcher.submit([tensor(batcher, deadline=now + 10, lane="double:fp32")])
        assert await batcher.turn()
        assert await batcher.turn()
        assert not await batcher.turn()
    assert order == ["fp32", "int8"]


async def test_expired_work_is_refused_unexecuted_and_the_engine_never_sees_it():
    engine = Doubler()
    engine.gate.clear()
    async with batching(tensor_entry(engine)) as batcher:
        running = asyncio.ensure_future(batcher.results([tensor(batcher)]))
        await until(lambda: batcher.runners["double:fp32"].running)
        doomed = asyncio.ensure_future(batcher.results([tensor(batcher, deadline=batcher.clock() + 0.01)]))
        await asyncio.sleep(0.02)
        engine.gate.set()
        refused = await doomed
        await running
    assert refused == Refused(Reason.DEADLINE_EXCEEDED, "The deadline passed in this worker's queue.", executed=False)
    assert engine.batches == [1]


async def test_a_deadline_that_passed_before_arrival_is_not_even_queued():
    async with batching(tensor_entry(), running=False) as batcher:
        refused = await batcher.results([tensor(batcher, deadline=batcher.clock() - 1)])
        assert (refused.reason, refused.executed, len(batcher.queue)) == (Reason.DEADLINE_EXCEEDED, False, 0)


async def test_what_the_guard_refuses_is_refused_unexecuted():
    entry, short = tensor_entry(), [Refused(Reason.OVERLOADED, "short of memory")]
    guard = lambda: short[0] if short else None  # noqa: E731
    batcher = Batcher({entry.lane: entry.runner}, Queue(4), guard=guard)
    assert batcher.submit([tensor(batcher)]) == short[0]
    assert batcher.runners["double:fp32"].tally.ended["overloaded"] == 1
    short.clear()
    assert batcher.submit([tensor(batcher)]) is None
    batcher.close()


async def test_a_full_queue_refuses_unexecuted():
    async with batching(tensor_entry(), limit=2, running=False) as batcher:
        assert batcher.submit([tensor(batcher), tensor(batcher)]) is None
        refused = batcher.submit([tensor(batcher)])
        assert (refused.reason, refused.executed) == (Reason.OVERLOADED, False)
        assert batcher.runners["double:fp32"].tally.ended["overloaded"] == 1


async def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new():
    engine = Doubler()
    engine.gate.clear()
    async with batching(tensor_entry(engine)) as batcher:
        accepted = asyncio.ensure_future(batcher.results([tensor(batcher)]))
        await until(lambda: batcher.runners["double:fp32"].running)
        batcher.draining = True
        refused = await batcher.results([tensor(batcher)])
        engine.gate.set()
        assert (refused.reason, refused.executed) == (Reason.DRAINING, False)
        assert isinstance(await accepted, list)


async def test_cancelling_the_caller_removes_its_queued_work():
    engine = Doubler()
    engine.gate.clear()
    async with batching(tensor_entry(engine)) as batcher:
        running = asyncio.ensure_future(batcher.results([tensor(batcher)]))
        await until(lambda: batcher.runners["double:fp32"].running)
        waiting = asyncio.ensure_future(batcher.results([tensor(batcher), tensor(batcher)]))
        await until(lambda: len(batcher.queue) == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len(batcher.queue) == 0
        engine.gate.set()
        await running
    assert engine.batches == [1]
    assert batcher.runners["double:fp32"].tally.ended == {"ok": 1, "cancelled": 2}


async def test_text_and_tensors_share_the_accelerator():
    engine = Echo(slots=2)
    async with batching(text_entry(engine), tensor_entry()) as batcher:
        job = text(batcher, tokens=400)
        assert batcher.submit([job]) is None
        assert await job.events.get() == Token(1)
        answer = await batcher.results([tensor(batcher)])
        assert isinstance(answer, list)
        assert job.generated < 400, "the tensor did not wait for the text to end"
        batcher.cancel([job])
        await until(lambda: engine.stopped == [0])


async def test_a_text_finished_early_is_counted_as_answered():
    engine = Echo(slots=1)
    async with batching(text_entry(engine)) as batcher:
        job = text(batcher, tokens=400)
        batcher.submit([job])
        await job.events.get()
        batcher.finish(job)
        batcher.cancel([job])
        await until(lambda: engine.stopped == [0])
        assert batcher.runners["echo:fp32"].tally.ended == {"ok": 1}
        assert job.finished is not None


async def test_an_engine_fault_reaches_its_callers_and_the_loop_goes_on(caplog):
    async with batching(tensor_entry()) as batcher:
        refused = await batcher.results([tensor(batcher, 999.0)])
        assert (refused.reason, refused.executed) == (Reason.INTERNAL, True)
        assert isinstance(await batcher.results([tensor(batcher)]), list)
    assert "engine of double:fp32 failed" in caplog.text


async def test_a_fault_in_booking_reaches_its_callers_and_the_loop_goes_on(caplog, monkeypatch):
    entry = tensor_entry()
    settle = entry.runner.settle
    monkeypatch.setattr(entry.runner, "settle", lambda *_: 1 / 0)
    async with batching(entry) as batcher:
        refused = await asyncio.wait_for(batcher.results([tensor(batcher)]), 2)
        assert (refused.reason, refused.executed) == (Reason.INTERNAL, True)
        assert not entry.runner.running
        monkeypatch.setattr(entry.runner, "settle", settle)
        assert isinstance(await batcher.results([tensor(batcher)]), list)
    assert "ZeroDivisionError" in caplog.text


async def test_texts_end_whose_booking_broke_half_way(monkeypatch):
    engine = Echo(slots=3)
    entry = text_entry(engine)
    hand_out = entry.runner._hand_out
    async with batching(entry) as batcher:
        monkeypatch.setattr(entry.runner, "_hand_out", lambda *_: 1 / 0)
        jobs = [text(batcher, prompt=()), text(batcher), text(batcher)]
        batcher.submit(jobs)
        reasons = [(await asyncio.wait_for(job.events.get(), 2)).reason for job in jobs]
        assert reasons == [Reason.BAD_REQUEST, Reason.INTERNAL, Reason.INTERNAL]
        await until(lambda: engine.stopped == [0, 1])
        monkeypatch.setattr(entry.runner, "_hand_out", hand_out)
        following = text(batcher)
        batcher.submit([following])
        assert await asyncio.wait_for(following.events.get(), 2) == Token(1)


async def test_a_fault_of_ours_between_calls_is_logged_and_the_loop_goes_on(caplog, monkeypatch):
    entry = tensor_entry()
    plan = entry.runner.plan
    async with batching(entry) as batcher:
        monkeypatch.setattr(entry.runner, "plan", lambda *_: 1 / 0)
        asked = asyncio.ensure_future(batcher.results([tensor(batcher)]))
        await until(lambda: "a turn failed" in caplog.text)
        monkeypatch.setattr(entry.runner, "plan", plan)
        assert isinstance(await asked, list)


def steep(engine, stop=None, variant="fp32"):
    """An endpoint whose calls cost a second each, whatever is in them, as its curve says."""
    served = endpoint("double", variant, base=1.001, item=0.001, max_batch=64)
    return Entry(served, TENSOR, Batched(served, engine.run, stop=stop), inputs=engine.inputs, outputs=engine.outputs)


async def test_where_many_come_a_batch_waits_for_company_until_it_pays_no_longer():
    engine = Doubler()
    async with batching(steep(engine)) as batcher:
        asked = [asyncio.ensure_future(batcher.results([tensor(batcher, n)])) for n in range(3)]
        await asyncio.sleep(0.01)
        assert not engine.batches, "they came at once, and a call costs as much for three as for sixty"
        asked += [asyncio.ensure_future(batcher.results([tensor(batcher, n)])) for n in range(2)]
        await asyncio.gather(*asked)
    assert engine.batches == [5]


async def test_nothing_waits_for_company_while_another_line_has_work():
    entries = [steep(Doubler()), steep(Doubler(), variant="int8")]
    async with batching(*entries, running=False) as batcher:
        for n in range(4):
            batcher.submit([tensor(batcher, n)])
        assert not await batcher.turn(), "it waits"
        batcher.submit([tensor(batcher, lane="double:int8")])
        assert await batcher.turn()
        assert len(batcher.queue) == 1, "the first line went, whole"


async def test_who_can_no_longer_be_served_in_time_is_refused_unexecuted():
    engine = Doubler()
    async with batching(steep(engine)) as batcher:
        refused = await batcher.results([tensor(batcher, deadline=batcher.clock() + 0.1)])
        assert (refused.reason, refused.executed) == (Reason.DEADLINE_EXCEEDED, False)
        assert isinstance(await batcher.results([tensor(batcher, deadline=batcher.clock() + 5)]), list)
    assert engine.batches == [1]


async def test_a_job_that_waits_for_its_sisters_does_not_count_as_slow(monkeypatch):
    """The first to be done is the second to be asked for."""
    engine, told = Doubler(), []
    entries = [steep(engine), tensor_entry(Doubler(), "double", "int8")]
    monkeypatch.setattr(entries[1].runner, "answered", lambda *answered: told.append(answered))
    async with batching(*entries) as batcher:
        now = batcher.clock()
        engine.gate.clear()
        slow, fast = tensor(batcher, deadline=now + 30), tensor(batcher, deadline=now + 10, lane="double:int8")
        asked = asyncio.ensure_future(batcher.results([slow, fast]))
        await until(lambda: fast.finished is not None)
        engine.gate.set()
        assert isinstance(await asked, list)
    assert told == [(fast, fast.finished)]


async def test_a_running_batch_is_stopped_when_the_last_of_its_callers_leaves():
    engine, stopped = Doubler(), []
    engine.gate.clear()

    def stop():
        stopped.append(len(leaving))
        engine.gate.set()

    async with batching(steep(engine, stop)) as batcher:
        leaving = [asyncio.ensure_future(batcher.results([tensor(batcher)])) for _ in range(2)]
        await until(lambda: len(batcher.runners["double:fp32"].running) == 2)
        leaving[0].cancel()
        await asyncio.wait(leaving[:1])
        assert not stopped
        leaving[1].cancel()
        await asyncio.wait(leaving)
        assert stopped
        await until(lambda: not batcher.runners["double:fp32"].running)
        assert batcher.runners["double:fp32"].tally.ended == {"cancelled": 2}


def test_accelerator_seconds_are_the_calling_threads_cpu_time():
    value, waited = timed(lambda: threading.Event().wait(0.05))
    assert value is False
    assert waited < 0.02
    value, worked = timed(lambda: sum(range(200_000)))
    assert value == 19999900000
    assert worked > 0


@pytest.mark.parametrize("reason", ["waiting", "running"])
async def test_changes_are_announced(reason):
    async with batching(tensor_entry(), running=False) as batcher:
        batcher.submit([tensor(batcher)])
        if reason == "running":
            batcher.changed.clear()
            await batcher.turn()
        assert batcher.changed.is_set()
