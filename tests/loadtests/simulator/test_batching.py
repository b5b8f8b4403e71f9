"""The iteration-level worker, iteration by iteration."""

import numpy as np
import pytest

from loadtests.simulator.batching import BLOCK, Batching
from loadtests.simulator.world import Profile, Queue, Serving
from loadtests.workload import Class
from tests.loadtests.simulator.worlds import Alone

A, B, C = 0.01, 0.001, 0.0001
PROFILE = Profile(
    accelerator="x", prefill_tokens_per_s=1 / C, decode_s=A, decode_batch_s=B, slots=4, prefill_chunk=100,
    kv_tokens=4096,
)  # fmt: skip


def alone(queue=Queue.FIFO, **fields):
    profile = Profile(**({name: getattr(PROFILE, name) for name in PROFILE.__struct_fields__} | fields))
    return Alone(Batching, profile, Serving(noise=0, queue=queue))


def test_one_request_is_prefilled_in_chunks_and_decoded_token_by_token():
    worker = alone()
    worker.send(0.0, 250, 11)
    (job,) = worker.run()
    prefill = 3 * A + 250 * C  # chunks of 100, 100 and 50
    assert job.first == pytest.approx(prefill)
    assert job.ends == 0.0
    assert [(what, at) for what, _, at in worker.heard] == [
        ("began", pytest.approx(prefill)), ("done", pytest.approx(prefill + 10 * (A + B))),
    ]  # fmt: skip
    assert job.accelerator == pytest.approx(prefill + 10 * (A + B) / 4)
    assert worker.worker.busy_s == pytest.approx(prefill + 10 * (A + B))


def test_prefill_shares_the_iteration_with_those_decoding():
    worker = alone()
    worker.send(0.0, 50, 1001)
    second = worker.send(1.0, 198, 1)
    worker.run()
    # One decodes, so 99 tokens of the budget are left for the prompt: two iterations.
    took = second.first - second.started
    assert took == pytest.approx(2 * (A + B + 99 * C))
    # It pays for what it adds: its prompt.
    assert second.accelerator == pytest.approx(198 * C)


def test_the_batch_slows_everybody_by_what_it_adds():
    worker = alone()
    worker.send(0.0, 1, 1)
    jobs = [worker.send(0.001, 25, 101) for _ in range(4)]  # let in together, after the iteration of the first
    worker.run()
    began = A + C + A + 100 * C
    assert [job.first for job in jobs] == [pytest.approx(began)] * 4
    done = [at for what, number, at in worker.heard if what == "done" and number]
    assert done == [pytest.approx(began + 100 * (A + 4 * B))] * 4


def test_who_comes_in_between_is_let_in_after_the_iteration_under_way():
    worker = alone()
    first = worker.send(0.0, 100, 1001)
    worker.run(until=0.0)
    step = A + B
    worker.timeline.run(1.0)
    second = worker.send(1.0, 1, 1)
    worker.run()
    begun = (second.started - first.first) / step
    assert begun == pytest.approx(round(begun), abs=1e-6)
    assert 0.0 <= second.queue <= step


def test_slots_bound_the_batch():
    worker = alone(slots=2)
    jobs = [worker.send(0.0, 10, 51) for _ in range(3)]
    worker.run()
    done = {number: at for what, number, at in worker.heard if what == "done"}
    assert jobs[2].started == pytest.approx(min(done[0], done[1]))


def test_out_of_blocks_the_last_one_let_in_is_preempted_and_computed_anew():
    worker = alone(kv_tokens=20 * BLOCK)
    jobs = [worker.send(0.0, 8 * BLOCK, 5 * BLOCK) for _ in range(2)]
    worker.run()
    assert worker.worker.preempted == 1
    done = {number: at for what, number, at in worker.heard if what == "done"}
    assert done[0] < done[1]
    assert [job.generated for job in jobs] == [5 * BLOCK] * 2
    # The second pays for its prompt twice, and for the tokens it had made.
    assert jobs[1].accelerator > jobs[0].accelerator + 8 * BLOCK * C
    assert worker.worker.free == 20
    assert [what for what, number, _ in worker.heard if number == 1] == ["began", "done"]


def test_what_never_fits_is_refused_and_what_outgrows_the_memory_is_cut_off():
    worker = alone(kv_tokens=4 * BLOCK)
    worker.send(0.0, 5 * BLOCK)
    cut = worker.send(0.0, 2 * BLOCK, 1000)
    worker.run()
    assert [(what, number) for what, number, _ in worker.heard] == [("refused", 0), ("began", 1), ("done", 1)]
    assert cut.generated == 2 * BLOCK
    assert worker.worker.free == 4


def test_earliest_deadline_first_and_late_ones_dropped():
    tight, loose = Class(name="tight", first_token_s=0.05), Class(name="loose", first_token_s=50.0)
    worker = alone(Queue.EDF, slots=1)
    for kind in (loose, loose, tight, loose):
        worker.send(0.0, 100, 1, kind)
    worker.send(0.06, 100, 1, tight)
    worker.run()
    ends = [(what, number) for what, number, _ in worker.heard]
    assert ends == [("done", 0), ("done", 2), ("done", 1), ("done", 4), ("done", 3)]
    worker = alone(Queue.EDF, slots=1)
    for _ in range(4):
        worker.send(0.0, 100, 1, tight)
    worker.run()
    assert [what for what, _, _ in worker.heard].count("deadline_exceeded") == 2


@pytest.mark.parametrize("seed", range(20))
def test_nothing_leaks_whatever_comes_and_goes(seed):
    """Blocks, slots and seconds add up, with cancellations and preemptions at any moment."""
    rng = np.random.default_rng(seed)
    worker = alone(kv_tokens=30 * BLOCK, slots=6, overhead_s=0.002)
    at = 0.0
    for _ in range(60):
        at += float(rng.exponential(0.05))
        job = worker.send(at, int(rng.integers(1, 200)), int(rng.integers(1, 150)))
        if rng.random() < 0.3:
            worker.timeline.at(at + float(rng.exponential(0.3)), worker.worker.cancel, job)
    jobs = worker.run()
    w = worker.worker
    assert (w.free, w.running, w.waiting, w.queued_tokens, w._phases) == (30, 0, 0, 0, [0] * BLOCK)
    assert w.preempted > 0
    done = {number for what, number, _ in worker.heard if what == "done"}
    assert all(jobs[number].generated == jobs[number].call.output for number in done)
    assert 0.2 * w.busy_s < sum(job.accelerator for job in jobs) <= w.busy_s + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_iterations_taken_together_are_the_same_as_one_by_one(seed, monkeypatch):
    def run():
        rng = np.random.default_rng(seed)
        worker = alone(kv_tokens=30 * BLOCK, slots=6)
        for at in np.cumsum(rng.exponential(0.1, 40)).tolist():
            worker.send(at, int(rng.integers(1, 200)), int(rng.integers(1, 150)))
        worker.run()
        return [(what, number, round(at, 9)) for what, number, at in worker.heard], worker.timeline.events

    together, few = run()
    monkeypatch.setattr(Batching, "_alike", lambda self: 1)
    apart, many = run()
    assert together == apart
    assert few < many / 2


def test_the_wait_it_tells_is_near_the_wait_there_is():
    rng = np.random.default_rng(1)
    told, seen = [], []
    for _ in range(60):
        worker = alone(slots=3)
        for _ in range(int(rng.integers(0, 8))):
            worker.send(0.0, int(rng.integers(1, 300)), int(rng.integers(1, 60)))
        worker.worker.mean_output = 30.0
        worker.timeline.at(0.2, lambda _, worker=worker: told.append(worker.worker.wait(0.2)))
        probe = worker.send(0.2, 1)
        worker.run()
        seen.append(probe.first - 0.2)
    assert np.corrcoef(told, seen)[0, 1] > 0.9
