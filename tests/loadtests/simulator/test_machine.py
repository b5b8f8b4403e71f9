import random

import pytest

from loadtests.simulator.machine import Herd, Line, Prefixes, Service, SlowPeriods
from loadtests.simulator.world import Profile, Queue, Serving

PROFILE = Profile(
    accelerator="x", variant="int8", quality=0.98, prefill_tokens_per_s=1000, overhead_s=0.1, decode_s=0.01,
    decode_batch_s=0.002, slots=5,
)  # fmt: skip


def test_a_profile_is_registered_as_the_time_of_a_request_alone():
    service = Service(PROFILE)
    endpoint = service.endpoint()
    assert (endpoint.variant, endpoint.quality, endpoint.max_batch) == ("int8", 0.98, 5)
    assert endpoint.curve.seconds(200, 10) == pytest.approx(service.prefill(200) + 10 * 0.012)
    assert endpoint.curve.decode_batch == 0.002


def test_a_full_node_decodes_as_fast_as_its_slots_together():
    assert Service(PROFILE).full_share(10) == pytest.approx(10 * (0.01 + 5 * 0.002) / 5)


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_slow_periods_take_their_share_of_the_time(share):
    slow = SlowPeriods(Serving(slow_factor=2.5, slow_share=(share, share), slow_s=2.0), random.Random(1))
    steps = 400_000
    seen = [slow.factor(number * 0.1) for number in range(steps)]
    assert set(seen) == {1.0, 2.5}
    # 40,000 s are some 600 or 6,000 periods; five relative standard errors of their number.
    periods = steps * 0.1 * share / 2.0
    assert seen.count(2.5) / steps == pytest.approx(share, rel=5 / periods**0.5)


def test_without_a_share_or_a_factor_nothing_is_ever_slow():
    for serving in (Serving(slow_factor=2.5), Serving(slow_share=(0.5, 0.5))):
        slow = SlowPeriods(serving, random.Random(1))
        assert {slow.factor(float(at)) for at in range(1000)} == {1.0}


def test_a_beginning_is_in_memory_as_far_as_its_blocks_are():
    prefixes = Prefixes(4 * 512)
    assert prefixes.use((1, 2, 3)) == 0
    assert prefixes.use((1, 2, 3)) == 3 * 512
    assert prefixes.use((1, 2, 9)) == 2 * 512
    assert prefixes.use((7, 2, 3)) == 0, "equal blocks after another beginning are no hit"


def test_the_blocks_used_last_stay_and_ends_go_before_beginnings():
    prefixes = Prefixes(3 * 512)
    prefixes.use((1, 2, 3))
    prefixes.use((4,))
    assert prefixes.use((1, 2, 3)) == 2 * 512
    prefixes.forget()
    assert prefixes.use((1, 2, 3)) == 0


def test_a_herd_is_measured_by_the_work_of_its_worst_window():
    herd = Herd(1.0, 2.0)
    herd.arrived(0.5, 9.0, 0.0)
    assert herd.worst == 0.0, "the warm-up does not count"
    for at in (2.0, 2.5, 2.9):
        herd.arrived(at, 0.5, 0.1)
    herd.arrived(3.0, 0.5, 0.1)
    assert herd.worst == pytest.approx(1.5)
    herd.arrived(3.1, 0.1, 2.0)
    assert herd.worst == pytest.approx(2.1), "slots may be what a node lacks"


def test_a_wider_window_divides_by_what_can_be_served_in_it():
    herd = Herd(5.0, 0.0)
    herd.arrived(1.0, 5.0, 0.0)
    herd.arrived(4.0, 5.0, 0.0)
    assert herd.worst == pytest.approx(2.0)


class Waiting:
    def __init__(self, due):
        self.due = due


def drained(line):
    taken = []
    while line.jobs():
        taken.append(line.take())
    return taken


@pytest.mark.parametrize("queue", Queue)
def test_a_line_is_taken_in_its_order_and_equals_in_that_of_their_coming(queue):
    line, jobs = Line(queue), [Waiting(due) for due in (3.0, 1.0, 3.0, 2.0, 1.0)]
    for job in jobs:
        line.put(job)
    order = [0, 1, 2, 3, 4] if queue is Queue.FIFO else [1, 4, 3, 0, 2]
    assert line.jobs() == [jobs[number] for number in order]
    assert drained(line) == [jobs[number] for number in order]


@pytest.mark.parametrize("queue", Queue)
def test_what_is_put_back_is_the_next_of_its_deadline(queue):
    line, one, two, three = Line(queue), Waiting(1.0), Waiting(1.0), Waiting(1.0)
    for job in (one, two):
        line.put(job)
    line.put_back(three)
    assert drained(line) == [three, one, two]
