import random

import pytest

from policies.reason import Reason
from workers.queue import PATIENCE, Job, Queue, Refused, Result, State


def job(deadline, lane="a", arrived=0.0, bucket=0, first=float("inf")):
    return Job(lane, None, arrived=arrived, deadline=deadline, first_deadline=first, bucket=bucket)


def drain(queue, lane="a"):
    taken = []
    while (one := queue.pop(lane)) is not None:
        taken.append(one)
    return taken


def test_the_earliest_deadline_leaves_first_whatever_the_order_of_arrival():
    rng = random.Random(7)
    jobs = [job(rng.uniform(1, 50)) for _ in range(50)]
    queue = Queue(100)
    queue.push(jobs)
    assert drain(queue) == sorted(jobs, key=lambda each: each.deadline)
    assert len(queue) == 0


def test_equal_deadlines_keep_the_order_of_arrival():
    jobs = [job(5.0) for _ in range(10)]
    queue = Queue(100)
    for each in jobs:
        queue.push([each])
    assert drain(queue) == jobs


def test_without_a_deadline_patience_counts_so_that_deadlines_never_starve_it():
    patient = job(float("inf"), arrived=0.0)
    hasty = [job(deadline=10.0 * n, arrived=10.0 * n - 1) for n in range(1, 12)]
    queue = Queue(100)
    queue.push([patient, *hasty])
    order = drain(queue)
    assert [each.deadline for each in order if each.deadline < PATIENCE] == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert order.index(patient) == 5


def test_the_bound_counts_all_lanes_and_takes_all_or_none():
    queue = Queue(3)
    assert queue.push([job(1.0, "a"), job(1.0, "b")])
    assert not queue.push([job(1.0, "c"), job(2.0, "c")])
    assert len(queue) == 2
    assert not list(queue.waiting("c"))
    assert queue.push([job(1.0, "c")])


def test_expire_takes_exactly_the_overdue():
    late, soon, patient = job(1.0), job(2.0), job(float("inf"), arrived=-2 * PATIENCE)
    queue = Queue(10)
    queue.push([soon, late, patient])
    assert queue.expire(1.0) == [late]
    assert len(queue) == 2
    assert set(drain(queue)) == {soon, patient}


def test_a_first_token_s_deadline_orders_as_long_as_it_may_be_met():
    hasty, steady, other = job(50.0, first=1.0), job(5.0), job(20.0, bucket=8)
    queue = Queue(10)
    queue.push([steady, hasty, other])
    assert queue.line(("a", 0)) == [hasty, steady]
    assert queue.expire(0.9) == []
    assert queue.line(("a", 0)) == [hasty, steady]
    assert queue.expire(1.0) == [], "its answer is wanted all the same"
    assert queue.line(("a", 0)) == [steady, hasty], "but those come first that have something to lose"
    assert len(queue) == 3
    assert set(queue.expire(50.0)) == {steady, hasty, other}
    assert len(queue) == 0


def test_a_late_first_token_keeps_its_place_among_equals():
    first, second = job(9.0, first=1.0), job(9.0)
    queue = Queue(10)
    queue.push([first, second])
    queue.expire(2.0)
    assert drain(queue) == [first, second]


def test_lines_by_urgency_are_only_those_with_work():
    queue = Queue(10)
    queue.push([job(3.0, "a"), job(1.0, "b"), job(2.0, "c"), job(9.0, "b")])
    assert queue.by_urgency(["a", "b", "c", "d"]) == [("b", 0), ("c", 0), ("a", 0)]
    assert queue.by_urgency(["a", "d"]) == [("a", 0)]


def test_each_bucket_of_a_lane_is_a_line_of_its_own():
    long, short, longer = job(2.0, bucket=64), job(3.0, bucket=16), job(1.0, bucket=64)
    queue = Queue(10)
    queue.push([long, short, longer])
    assert queue.by_urgency(["a"]) == [("a", 64), ("a", 16)]
    assert list(queue.line(("a", 64))) == [longer, long]
    assert set(queue.waiting("a")) == {long, short, longer}
    queue.take([longer, short])
    assert (len(queue), queue.by_urgency(["a"])) == (1, [("a", 64)])
    assert drain(queue) == [long]


def test_removed_jobs_are_neither_counted_nor_taken_and_make_room():
    first, second = job(1.0), job(2.0)
    queue = Queue(2)
    queue.push([first, second])
    queue.remove(first)
    assert (len(queue), list(queue.waiting("a"))) == (1, [second])
    assert queue.push([job(0.5)])
    assert first.state is State.ENDED


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_agree_with_a_sorted_list(seed):
    rng = random.Random(seed)
    queue, model = Queue(40), []
    for step in range(400):
        what = rng.random()
        if what < 0.5:
            one = job(step + rng.uniform(0, 30), arrived=float(step))
            assert queue.push([one]) == (len(model) < 40)
            if one.state is State.WAITING and len(model) < 40:
                model.append(one)
        elif what < 0.7 and model:
            one = rng.choice(model)
            queue.remove(one)
            model.remove(one)
        elif what < 0.9:
            best = min(model, key=lambda each: each.urgency, default=None)
            assert queue.pop("a") is best
            if best:
                model.remove(best)
        else:
            overdue = [each for each in model if each.deadline <= step]
            assert set(queue.expire(float(step))) == set(overdue)
            model = [each for each in model if each not in overdue]
        assert len(queue) == len(model)


def test_a_job_hears_only_its_first_end():
    one = job(1.0)
    one.begin(0.5)
    one.end(Result(1), 2.0)
    one.end(Refused(Reason.INTERNAL), 3.0)
    assert one.events.get_nowait() == Result(1)
    assert one.events.empty()
    assert (one.started, one.finished, one.state) == (0.5, 2.0, State.ENDED)
    assert "ended" in repr(one)
