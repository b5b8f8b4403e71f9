import math

import pytest

from policies.reason import Reason
from tests.workers.fakes import END, Doubler, Echo, endpoint, plan
from workers.engines import StoppedError
from workers.engines.text import Sampling
from workers.queue import Job, Queue, Refused, Result, State, Token
from workers.runners import HOPELESS, Batched, Generation, Slotted, Wait


def items(values, deadline=math.inf, bucket=0):
    return Job("m:fp32", values, arrived=0.0, deadline=deadline, items=len(values), bucket=bucket)


def text(prompt, tokens=8):
    work = Generation(prompt, Sampling(max_tokens=tokens))
    return Job("m:fp32", work, arrived=0.0, prompt_tokens=len(prompt), output_tokens=tokens)


def queued(*jobs):
    queue = Queue(100)
    queue.push(jobs)
    return queue


def turn(runner, queue, now=1.0, accel=0.1):
    call = plan(runner, queue, now)
    if call is None:
        return False
    running = runner.running
    runner.settle(call(), accel, now + 0.01)
    if isinstance(runner, Batched):
        runner.answered(running[-1], now + 0.01)
    return True


def events(job):
    got = []
    while not job.events.empty():
        got.append(job.events.get_nowait())
    return got


def double(works):
    return [[value * 2 for value in work] for work in works]


def test_a_batch_takes_what_waits_up_to_max_batch_and_answers_each():
    jobs = [items([n]) for n in range(6)]
    queue = queued(*jobs)
    runner = Batched(endpoint(max_batch=4), double)
    assert turn(runner, queue)
    assert [events(job) for job in jobs[:4]] == [[Result([0])], [Result([2])], [Result([4])], [Result([6])]]
    assert len(queue) == 2
    assert turn(runner, queue)
    assert not turn(runner, queue)
    assert (runner.tally.calls, runner.tally.items, runner.tally.ended["ok"]) == (2, 6, 6)


def test_a_batch_counts_items_not_requests():
    jobs = [items([1, 2, 3]), items([4, 5])]
    queue = queued(*jobs)
    runner = Batched(endpoint(max_batch=4), double)
    plan(runner, queue, 0.0)
    assert list(runner.running) == jobs[:1]


def test_accelerator_seconds_are_split_by_item():
    jobs = [items([1, 2, 3]), items([4])]
    runner = Batched(endpoint(max_batch=4), double)
    turn(runner, queued(*jobs), accel=0.4)
    assert [job.accel for job in jobs] == pytest.approx([0.3, 0.1])


def test_a_batch_does_not_grow_past_a_deadline_it_would_still_have_met():
    tight, loose = items([1], deadline=1.012), items([2])
    runner = Batched(endpoint(base=0.010, item=0.005), double)
    queue = queued(tight, loose)
    plan(runner, queue, 1.0)
    assert list(runner.running) == [tight]
    assert list(queue.waiting("m:fp32")) == [loose]


def test_who_is_late_anyway_is_refused_unexecuted_and_holds_nobody_back():
    late, loose = items([1], deadline=1.001), items([2])
    runner = Batched(endpoint(base=0.010, item=0.005), double)
    plan(runner, queued(late, loose), 1.0)
    assert list(runner.running) == [loose]
    assert events(late) == [HOPELESS]
    assert not HOPELESS.executed
    assert runner.tally.ended["deadline_exceeded"] == 1


def test_where_only_the_hopeless_wait_there_is_nothing_to_execute():
    late = items([1], deadline=1.001)
    queue = queued(late)
    assert plan(Batched(endpoint(base=0.010), double), queue, 1.0).until <= 1.0
    assert (len(queue), events(late)) == (0, [HOPELESS])


def test_where_many_arrive_a_batch_waits_for_company_and_then_no_longer():
    runner = Batched(endpoint(base=0.101, item=0.001, max_batch=8), double)
    for n in range(5):
        runner.arrived(items([n]), n * 0.01)  # 100 a second: ten in the time that every call costs
    queue = queued(items([1]))
    waits = plan(runner, queue, 0.05, alone=True)
    assert isinstance(waits, Wait)
    assert 0.05 < waits.until < 0.05 + 0.1
    assert len(queue) == 1
    assert not isinstance(plan(runner, queue, 0.05, alone=False), Wait), "another line has work"


def test_only_one_bucket_is_a_batch():
    short, long, shorter = items([1], 5.0, bucket=16), items([2], 6.0, bucket=64), items([3], 7.0, bucket=16)
    runner = Batched(endpoint(base=0.010, item=0.010, max_batch=8), double, length=16)
    queue = queued(long, shorter, short)
    plan(runner, queue, 1.0)
    assert list(runner.running) == [short, shorter]
    assert (runner.most(16), runner.most(64)) == (8, 2)
    assert runner.service(64).each == pytest.approx(4 * runner.service(16).each)


def test_every_answer_knows_the_batch_it_came_in():
    jobs = [items([1, 2, 3]), items([4])]
    turn(Batched(endpoint(), double), queued(*jobs))
    assert [job.batch for job in jobs] == [4, 4]


def test_the_curve_is_what_its_own_traffic_says():
    runner = Batched(endpoint(base=0.010, item=0.005, max_batch=4), double)
    assert runner.curve.base == pytest.approx(0.010)
    for n in range(400):
        batch = [items([0]) for _ in range(1 + n % 4)]
        turn(runner, queued(*batch), accel=0.02 + 0.001 * len(batch))
    assert runner.curve.base == pytest.approx(0.021, rel=0.1)
    assert runner.curve.item == pytest.approx(0.001, abs=0.0006), "the manifest's shape still counts a little"
    assert runner.service().seconds(1) == pytest.approx(0.01, rel=0.1), "deadlines are held against the clock"
    assert runner.endpoint.curve.base == 0.010


def test_a_texts_curve_is_what_its_steps_say_and_unknown_company_stays_unknown():
    runner = Slotted(endpoint(base=0.0, prefill=0.001, decode=0.5), Echo(slots=2))
    queue = queued(text([1], tokens=100))
    for _ in range(10):
        turn(runner, queue, accel=0.2)
    assert runner.curve == runner.endpoint.curve, "too few to tell"
    for _ in range(60):
        turn(runner, queue, accel=0.2)
    assert runner.curve.decode == pytest.approx(0.2, rel=0.1)
    assert (runner.curve.prefill, runner.curve.decode_batch) == (0.001, 0.0)


def test_a_batch_takes_until_the_last_of_its_answers_is_on_its_way():
    runner = Batched(endpoint(base=0.010, item=0.0), double)
    for _ in range(50):
        jobs = [items([1]), items([2])]
        call = plan(runner, queued(*jobs), 1.0)
        runner.settle(call(), 0.01, 1.01)
        for n, job in enumerate(jobs):
            runner.answered(job, 1.02 + n * 0.02)
    assert runner.service().seconds(2) == pytest.approx(0.04, rel=0.1)
    assert runner.curve.base == pytest.approx(0.01, rel=0.1)


def test_a_batch_is_given_up_when_nobody_waits_for_any_of_it():
    stopped = []
    runner = Batched(endpoint(), double, stop=lambda: stopped.append(True))
    jobs = [items([1]), items([2])]
    plan(runner, queued(*jobs), 1.0)
    jobs[0].state = State.ENDED
    runner.abandon()
    assert not stopped
    jobs[1].state = State.ENDED
    runner.abandon()
    assert stopped == [True]


def test_a_stopped_engine_is_no_fault_and_teaches_nothing():
    def stopping(works):
        raise StoppedError

    runner = Batched(endpoint(), stopping)
    job = items([1])
    queue = queued(job)
    before = runner.curve
    call = plan(runner, queue, 1.0)
    job.state = State.ENDED
    runner.settle(call(), 5.0, 2.0)
    assert not runner.running
    assert runner.curve == before


def test_one_bad_input_costs_only_itself():
    def run(works):
        if any(work == [666] for work in works):
            raise ValueError("666 is refused")
        return double(works)

    jobs = [items([1]), items([666]), items([3])]
    turn(Batched(endpoint(), run), queued(*jobs))
    assert events(jobs[0]) == [Result([2])]
    assert events(jobs[1]) == [Refused(Reason.BAD_REQUEST, "666 is refused", executed=True)]
    assert events(jobs[2]) == [Result([6])]


def test_a_device_without_room_for_a_batch_is_overloaded_and_not_at_fault():
    def run(works):
        raise MemoryError("no room for a batch of 2")

    jobs = [items([1]), items([2])]
    turn(Batched(endpoint("m"), run), queued(*jobs))
    refused = Refused(Reason.OVERLOADED, "no room for a batch of 2", executed=True)
    assert [events(job) for job in jobs] == [[refused], [refused]]


def test_an_engine_fault_is_said_to_everyone_in_the_batch():
    jobs = [items([1]), items([2])]
    runner = Batched(endpoint(), Doubler().run)
    plan(runner, queued(*jobs), 0.0)
    runner.fail(1.0)
    assert [events(job)[0].reason for job in jobs] == [Reason.INTERNAL] * 2
    assert not runner.running
    assert runner.tally.ended["internal"] == 2


def test_text_joins_and_leaves_a_running_batch_at_any_step():
    engine = Echo(slots=2)
    runner = Slotted(endpoint(max_batch=2), engine)
    first, second, third = text([1, 2, END]), text([7], tokens=5), text([9], tokens=1)
    queue = queued(first)
    turn(runner, queue)
    queue.push([second, third])
    while turn(runner, queue):
        pass
    assert events(first) == [Token(1), Token(2), Token(END, "stop")]
    assert events(second) == [Token(7)] * 4 + [Token(7, "length")]
    assert events(third) == [Token(9, "length")]
    assert engine.steps == 6
    assert runner.tally.tokens == 9


def test_a_full_engine_leaves_the_rest_in_the_queue_most_urgent_first():
    runner = Slotted(endpoint(), Echo(slots=1))
    queue = queued(text([1]), text([2]))
    turn(runner, queue)
    assert (len(runner.running), len(queue)) == (1, 1)


def test_a_cancelled_text_frees_its_slot_before_the_next_step():
    engine = Echo(slots=1)
    runner = Slotted(endpoint(), engine)
    gone, following = text([1], tokens=100), text([2], tokens=1)
    queue = queued(gone, following)
    turn(runner, queue)
    gone.state = State.ENDED
    turn(runner, queue)
    assert engine.stopped == [0]
    assert events(following) == [Token(2, "length")]
    assert len(events(gone)) == 1


def test_text_accelerator_seconds_follow_the_tokens_each_had():
    runner = Slotted(endpoint(), Echo(slots=2))
    reading, writing = text([1] * 9, tokens=9), text([2], tokens=9)
    queue = queued(writing)
    turn(runner, queue, accel=1.0)
    queue.push([reading])
    turn(runner, queue, accel=1.0)
    assert writing.accel == pytest.approx(1.1)
    assert reading.accel == pytest.approx(0.9)
    turn(runner, queue, accel=1.0)
    assert reading.accel == pytest.approx(1.4)


def test_a_step_is_charged_by_the_tokens_it_took_and_a_long_prompt_is_read_in_many():
    runner = Slotted(endpoint(decode=0.5), Echo(slots=2, chunk=4))
    reading, writing = text([1] * 10, tokens=9), text([2], tokens=9)
    queue = queued(writing)
    turn(runner, queue, accel=0.0)
    queue.push([reading])
    for accel, read in ((5.0, 4), (5.0, 4), (3.0, 2), (2.0, 1)):
        before, written = reading.accel, writing.accel
        turn(runner, queue, accel=accel)
        assert (reading.accel - before, writing.accel - written) == pytest.approx((read, 1.0))
    assert len(events(reading)) == 2


def test_an_interrupted_prompt_is_charged_for_what_was_read():
    engine = Echo(slots=2, chunk=4)
    runner = Slotted(endpoint(), engine)
    gone, staying = text([1] * 10), text([2], tokens=9)
    queue = queued(gone, staying)
    turn(runner, queue, accel=5.0)
    gone.state = State.ENDED
    turn(runner, queue, accel=1.0)
    assert (gone.accel, staying.accel) == pytest.approx((4.0, 2.0))
    assert runner.tally.accel == pytest.approx(6.0)


def test_a_prompt_the_engine_refuses_costs_only_itself():
    runner = Slotted(endpoint(), Echo(slots=2))
    bad, good = text([]), text([3], tokens=1)
    turn(runner, queued(bad, good))
    assert events(bad) == [Refused(Reason.BAD_REQUEST, "the prompt is empty")]
    assert events(good) == [Token(3, "length")]


def test_after_an_engine_fault_everyone_is_refused_and_the_slots_are_freed():
    engine = Echo(slots=2)
    runner = Slotted(endpoint(), engine)
    running, starting = text([1], tokens=100), text([2])
    queue = queued(running)
    turn(runner, queue)
    queue.push([starting])
    engine.broken = True
    call = plan(runner, queue, 1.0)
    with pytest.raises(RuntimeError):
        call()
    runner.fail(1.0)
    assert events(running)[-1].reason is events(starting)[-1].reason is Reason.INTERNAL
    assert not runner.running
    engine.broken = False
    turn(runner, queue)
    assert sorted(engine.stopped) == [0, 1]
    assert not turn(runner, queue)


def test_the_pace_follows_the_steps_and_the_cache_use_the_engine():
    runner = Slotted(endpoint(decode=0.5), Echo(slots=2))
    queue = queued(text([1, 2], tokens=50))
    turn(runner, queue)
    assert runner.pace == 0.5, "reading a prompt is not a step's time"
    turn(runner, queue)
    assert runner.pace == pytest.approx(0.45, abs=0.01)
    assert runner.kv_use == 0.5
    assert runner.slots == 2
