"""The fast worker against queueing theory: every single wait against the recursions of Lindley and of Kiefer and
Wolfowitz, which hold for any arrivals, and mean waits against the closed forms of M/M/1, M/D/1 and M/M/c.

The closed forms are taken at the load that was really drawn. Waits are correlated, so the error left is judged by
the means of 40 batches in a row: four standard errors are allowed, passed by chance once in 16,000. Seeds are fixed: a
failure is a change, not bad luck.
"""

import heapq
import math
import statistics

import numpy as np
import pytest

from loadtests.simulator.queueing import Queueing
from loadtests.simulator.world import Profile, Queue, Serving
from loadtests.workload import Class
from tests.loadtests.simulator.worlds import Alone

REQUESTS, BATCHES = 40_000, 40
TOKENS = 1_000_000
"""A second of prefill is so many tokens, so that whole tokens are as good as real numbers."""
PREFILL = Profile(accelerator="x", prefill_tokens_per_s=TOKENS, slots=1)


def waits(gaps, prompts, outputs, profile):
    alone = Alone(Queueing, profile, Serving(noise=0, max_queue=10**6))
    for at, prompt, output in zip(np.cumsum(gaps).tolist(), prompts.tolist(), outputs.tolist(), strict=True):
        alone.send(at, int(prompt), int(output))
    return np.array([job.queue for job in alone.run()])


def agree(values, expected):
    """Whether the mean of a correlated series is what theory says."""
    means = [batch.mean() for batch in np.array_split(values[REQUESTS // 20 :], BATCHES)]
    error = statistics.stdev(means) / math.sqrt(BATCHES)
    assert error < 0.1 * expected, "too coarse to say anything"
    return abs(statistics.fmean(means) - expected) < 4 * error


@pytest.mark.parametrize("load", [0.4, 0.6])
@pytest.mark.parametrize("law", ["m/m/1", "m/d/1"])
def test_one_server(law, load):
    """Pollaczek and Khinchine: load / (1 - load) services for exponential ones, half of that for equal ones."""
    rng = np.random.default_rng(1)
    mean = 0.1
    prompts = rng.exponential(mean * TOKENS, REQUESTS) + 1 if law == "m/m/1" else np.full(REQUESTS, mean * TOKENS)
    gaps = rng.exponential(mean / load, REQUESTS)
    seen = waits(gaps, prompts, np.ones(REQUESTS), PREFILL)
    services = np.floor(prompts) / TOKENS
    wait = 0.0
    for number in range(REQUESTS - 1):
        wait = max(0.0, wait + services[number] - gaps[number + 1])
        assert seen[number + 1] == pytest.approx(wait, abs=1e-6)
    drawn = services.mean() / gaps.mean()
    assert agree(seen, drawn / (1 - drawn) * services.mean() * (1.0 if law == "m/m/1" else 0.5))


@pytest.mark.parametrize(("servers", "load"), [(2, 0.6), (8, 0.7)])
def test_many_servers(servers, load):
    """Prefill takes no time, then decode slots are the servers: Erlang's C."""
    rng = np.random.default_rng(4)
    token, mean = 1e-4, 1.0
    profile = Profile(accelerator="x", prefill_tokens_per_s=1e12, decode_s=token, slots=servers)
    outputs = np.round(rng.exponential(mean / token, REQUESTS)) + 1
    gaps = rng.exponential(mean / load / servers, REQUESTS)
    seen = waits(gaps, np.ones(REQUESTS), outputs, profile)
    free_at = [0.0] * servers
    for number, at in enumerate(np.cumsum(gaps).tolist()):
        start = max(at, heapq.heappop(free_at))
        heapq.heappush(free_at, start + (int(outputs[number]) - 1) * token)
        assert seen[number] == pytest.approx(start - at, abs=1e-6)
    offered = (outputs.mean() - 1) * token / gaps.mean()
    assert agree(seen, erlang_c(servers, offered) * mean / (servers - offered))


def erlang_c(servers, offered):
    """Probability that an arrival has to wait."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)  # Erlang's B
    share = offered / servers
    return blocked / (1 - share * (1 - blocked))


# The rules, one by one.

PLAIN = Profile(
    accelerator="x", prefill_tokens_per_s=1000, overhead_s=0.1, decode_s=0.01, decode_batch_s=0.001, slots=2,
    interference=1.0,
)  # fmt: skip


def test_one_request_alone_takes_what_the_profile_says():
    alone = Alone(Queueing, PLAIN)
    alone.send(1.0, 500, 11)
    (job,) = alone.run()
    assert (job.queue, job.prefill) == (0.0, pytest.approx(0.6))
    assert job.decode == pytest.approx(10 * 0.011)
    assert job.accelerator == pytest.approx(0.6 + 0.11 / 2)
    assert [(what, at) for what, _, at in alone.heard] == [("began", pytest.approx(1.6)), ("done", pytest.approx(1.71))]


def test_prefill_is_serial_and_slower_beside_decoding():
    alone = Alone(Queueing, PLAIN)
    alone.send(0.0, 400, 101)
    alone.send(0.0, 400, 2)
    first, second = alone.run()
    assert first.first == pytest.approx(0.5)
    assert second.started == pytest.approx(0.5)
    # One of two slots decodes: 1 + 1.0 * 1/2.
    assert second.first == pytest.approx(0.5 + 0.5 * 1.5)


def test_a_request_waits_for_a_slot_though_the_prefill_is_free():
    alone = Alone(Queueing, PLAIN)
    long = [alone.send(0.0, 1, 201) for _ in range(2)]
    third = alone.send(1.0, 1, 1)
    alone.run()
    assert third.started == pytest.approx(min(job.ends for job in long))


def test_first_come_first_or_the_earliest_deadline_first():
    tight, loose = Class(name="tight", first_token_s=5.0), Class(name="loose", first_token_s=50.0)

    def order(queue):
        alone = Alone(Queueing, PLAIN, Serving(noise=0, queue=queue))
        for kind in (loose, loose, tight, loose, tight):
            alone.send(0.0, 100, 1, kind)
        return [number for what, number, _ in (alone.run(), alone.heard)[1] if what == "done"]

    assert order(Queue.FIFO) == [0, 1, 2, 3, 4]
    assert order(Queue.EDF) == [0, 2, 4, 1, 3]


def test_what_cannot_make_it_any_more_is_dropped_before_any_work_is_spent_on_it():
    tight = Class(name="tight", first_token_s=1.0)
    alone = Alone(Queueing, PLAIN, Serving(noise=0, queue=Queue.EDF))
    for _ in range(4):
        alone.send(0.0, 300, 1, tight)
    jobs = alone.run()
    ends = {number: what for what, number, _ in alone.heard}
    assert ends == {0: "done", 1: "done", 2: "deadline_exceeded", 3: "deadline_exceeded"}
    assert [job.accelerator for job in jobs] == [pytest.approx(0.4)] * 2 + [0.0] * 2
    assert alone.worker.busy_s == pytest.approx(0.8)


def test_beyond_its_queue_a_worker_refuses():
    alone = Alone(Queueing, PLAIN, Serving(noise=0, max_queue=2))
    for _ in range(4):
        alone.send(0.0, 100)
    alone.run()
    assert {what for what, number, _ in alone.heard if number == 3} == {"refused"}


@pytest.mark.parametrize("stage", ["waiting", "prefilling", "decoding"])
def test_what_nobody_wants_any_more_ends_at_once_and_is_charged_for_what_was_done(stage):
    alone = Alone(Queueing, PLAIN)
    job = alone.send(0.0, 400, 101)
    other = alone.send(0.0, 400, 101)
    when, wanted = {"waiting": (0.2, other), "prefilling": (0.2, job), "decoding": (0.7, job)}[stage]
    alone.timeline.at(when, alone.worker.cancel, wanted)
    alone.run()
    assert ("done", wanted.call.number) not in [heard[:2] for heard in alone.heard]
    spent = {"waiting": (0.0, 0.0), "prefilling": (0.2, 0.0), "decoding": (0.5, 0.2)}[stage]
    assert (wanted.prefill, wanted.decode) == pytest.approx(spent)
    assert (alone.worker.running, alone.worker.waiting) == (0, 0)
    if stage == "prefilling":
        assert other.started == pytest.approx(0.2), "the accelerator turns to the next one"


def test_the_true_wait_is_how_long_a_request_of_now_will_wait():
    rng = np.random.default_rng(4)
    for _ in range(50):
        alone = Alone(Queueing, PLAIN)
        for _ in range(int(rng.integers(0, 6))):
            alone.send(0.0, int(rng.integers(1, 400)), 1)
        told = []
        alone.timeline.at(0.05, lambda _, alone=alone, told=told: told.append(alone.worker.wait(0.05)))
        probe = alone.send(0.05, 1)
        alone.run()
        assert probe.queue == pytest.approx(told[0], abs=1e-6)


def test_the_true_wait_for_a_slot_knows_when_the_running_ones_end():
    alone = Alone(Queueing, PLAIN)
    alone.send(0.0, 1, 301)
    alone.send(0.0, 1, 301)
    told = []
    alone.timeline.at(1.0, lambda _: told.append((alone.worker.wait(1.0), alone.worker.backlog(1.0))))
    probe = alone.send(1.0, 1)
    alone.run()
    assert probe.queue == pytest.approx(told[0][0])
    assert told[0][1] != pytest.approx(told[0][0]), "an engine does not know how long answers will be"
