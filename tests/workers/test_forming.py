import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.forming import TICK, Alone, FixedDelay, FixedWindow, Forecast, Scene, Service, Slack
from workers.queue import Job

SERVICE = Service(fixed=0.008, each=0.0005, caution=1.1)


def job(due, arrived=0.0, items=1):
    return Job("m:v", None, arrived=arrived, deadline=due, items=items)


def scene(*jobs, now=1.0, service=SERVICE, most=8, rate=0.0, alone=True, free_since=None):
    line = sorted(jobs, key=lambda each: each.urgency)
    return Scene(line, now, now if free_since is None else free_since, service, most, rate, alone)


services = st.builds(
    Service, fixed=st.floats(1e-4, 0.05), each=st.floats(1e-5, 0.02), caution=st.sampled_from([1.0, 1.1, 1.5])
)
dues = st.one_of(st.floats(0.9, 1.5), st.just(math.inf))
lines = st.lists(st.tuples(dues, st.integers(1, 4), st.floats(0.5, 1.0)), min_size=1, max_size=24)


@st.composite
def scenes(draw):
    jobs = [job(due, arrived, items) for due, items, arrived in draw(lines)]
    return scene(
        *jobs, service=draw(services), most=draw(st.integers(4, 16)), rate=draw(st.floats(0.0, 5000.0)),
        alone=draw(st.booleans()), free_since=draw(st.floats(0.5, 1.0)),
    )  # fmt: skip


def in_time(jobs, at, service):
    return all(each.deadline >= at + service.planned(sum(j.items for j in jobs)) for each in jobs)


@given(scenes())
def test_either_a_batch_within_bounds_or_a_wait(given):
    formed = Slack().form(given)
    assert not set(formed.batch) & set(formed.hopeless)
    assert set(formed.batch) | set(formed.hopeless) <= set(given.line)
    assert sum(each.items for each in formed.batch) <= given.most
    assert bool(formed.batch) or formed.until > given.now or formed.hopeless


@given(scenes())
def test_nobody_is_hopeless_who_could_be_answered_alone(given):
    formed = Slack().form(given)
    for each in formed.hopeless:
        assert each.deadline < given.now + given.service.seconds(each.items)
    for each in given.line[: given.most]:
        if each.deadline < given.now + given.service.seconds(each.items):
            assert each in formed.hopeless


@given(scenes())
def test_a_wait_ends_in_time_for_everybody_and_is_bounded(given):
    formed = Slack().form(given)
    if formed.batch or formed.until <= given.now:
        return
    waiting = [each for each in given.line if each not in formed.hopeless]
    assert given.alone, "another line has work"
    assert in_time(waiting, formed.until, given.service)
    began = [max(each.arrived, given.free_since) for each in waiting]
    assert sum(formed.until - each for each in began) <= given.service.fixed + 1e-9, "waiting cost more than a call"
    assert len(waiting) < given.rate * given.service.fixed, "waiting does not pay"


@given(scenes())
def test_a_batch_makes_nobody_late_who_was_not_late_alone(given):
    batch = Slack().form(given).batch
    if len(batch) > 1:
        assert in_time(batch, given.now, given.service)


@given(scenes())
def test_the_batch_is_the_most_urgent_of_those_considered(given):
    formed = Slack().form(given)
    if formed.batch:
        rest = given.line[given.line.index(formed.batch[0]) :]
        rest = [each for each in rest if each not in formed.hopeless]
        doubtful = [e for e in rest if e.deadline < given.now + given.service.planned(e.items)]
        certain = [each for each in rest if each not in doubtful]
        considered = certain if formed.batch[0] in certain else rest
        assert list(formed.batch) == considered[: len(formed.batch)]


@given(scenes())
def test_someone_who_could_be_in_time_is_passed_over_only_for_more_who_are(given):
    formed = Slack().form(given)
    if not formed.batch:
        return
    seen = given.line[: 2 * given.most]
    live = [each for each in seen if each.deadline >= given.now + given.service.planned(each.items)]
    if live and formed.batch[0] is not live[0]:
        forecast = Forecast(live, given.service, given.most)
        assert forecast.kept(live.index(formed.batch[0]), given.now) > forecast.kept(0, given.now)


@given(scenes(), st.integers(0, 8))
def test_the_forecast_is_the_batches_that_would_follow_each_other(given, start):
    """`kept` is `end` again and again, written out."""
    line = given.line
    forecast = Forecast(line, given.service, given.most)
    first, at, kept = min(start, len(line) - 1), given.now, 0
    expected = forecast.kept(first, at)
    while first < len(line):
        end = forecast.end(first, at)
        if end > first:
            at += given.service.planned(sum(each.items for each in line[first:end]))
            kept += end - first
        first = max(end, first + 1)
    assert expected == pytest.approx(kept, abs=1), "but for rounding at a deadline"


def test_a_lone_client_never_waits():
    """A closed loop of one: the next request comes after the answer, later than a call takes."""
    one = job(math.inf, arrived=1.0)
    assert Slack().form(scene(one, rate=1 / SERVICE.seconds(1))).batch == [one]


def test_waiting_pays_while_the_batch_is_smaller_than_what_arrives_in_the_fixed_time():
    few, many = [[job(math.inf, arrived=1.0) for _ in range(n)] for n in (3, 4)]
    assert not Slack().form(scene(*few, rate=4 / SERVICE.fixed)).batch
    assert Slack().form(scene(*many, rate=4 / SERVICE.fixed)).batch == many


def test_a_wait_shorter_than_a_tick_is_none():
    one = job(1.0 + SERVICE.planned(4) + TICK / 2, arrived=1.0)
    assert Slack().form(scene(one, rate=4 / SERVICE.fixed)).batch == [one]


def test_in_overload_the_most_urgent_is_passed_over_for_a_full_batch():
    """Its slack allows no company; seven others would come too late for it."""
    tight = job(1.0 + SERVICE.planned(1))
    others = [job(1.0 + SERVICE.planned(8)) for _ in range(7)]
    formed = Slack().form(scene(tight, *others))
    assert (list(formed.batch), formed.hopeless) == (others, [])


def test_without_overload_the_most_urgent_goes_first_alone():
    tight = job(1.0 + SERVICE.planned(1))
    others = [job(2.0) for _ in range(7)]
    assert Slack().form(scene(tight, *others)).batch == [tight]


def test_who_may_be_late_is_tried_when_nobody_else_waits():
    doubtful = job(1.0 + SERVICE.seconds(1) + 1e-4)
    assert Slack().form(scene(doubtful)).batch == [doubtful]
    certain = job(2.0)
    assert Slack().form(scene(doubtful, certain)).batch == [certain]


def test_an_impatient_one_without_a_deadline_goes_first_and_is_never_hopeless():
    patient = job(math.inf, arrived=-100.0)
    formed = Slack().form(scene(patient, job(1.2), now=1.0))
    assert formed.batch[0] is patient


def test_none_takes_one_at_a_time_in_the_order_of_arrival():
    first, second = job(9.0, arrived=0.1), job(2.0, arrived=0.2)
    assert Alone().form(scene(first, second)).batch == [first]


def test_a_fixed_window_opens_when_the_first_could_be_taken():
    rule, jobs = FixedWindow(ms=5.0), [job(9.0, arrived=0.2 + n / 1e3) for n in range(3)]
    assert rule.form(scene(*jobs, free_since=0.998)).until == pytest.approx(1.003)
    assert rule.form(scene(*jobs, free_since=0.99)).batch == jobs
    assert len(rule.form(scene(*jobs, free_since=0.998, most=2)).batch) == 2, "a full batch goes at once"


def test_a_fixed_delay_counts_from_the_arrival_of_the_oldest():
    rule, jobs = FixedDelay(ms=5.0), [job(9.0, arrived=0.999 + n / 1e4) for n in range(3)]
    assert rule.form(scene(*jobs)).until == pytest.approx(1.004)
    assert rule.form(scene(*jobs, now=1.005)).batch == jobs
    assert rule.form(scene(*jobs, most=2)).batch == jobs[:2]


def served(rule, arrivals, budget, service, most):
    """Answers in time, played in exact virtual time."""
    waiting, now, kept, free = [], 0.0, 0, 0.0
    pending = [job(at + budget(n), at) for n, at in enumerate(arrivals)]
    while pending or waiting:
        now = max(now, pending[0].arrived) if not waiting else now
        while pending and pending[0].arrived <= now:
            waiting.append(pending.pop(0))
        waiting = sorted((each for each in waiting if each.deadline > now), key=lambda each: each.urgency)
        if not waiting:
            continue
        formed = rule.form(Scene(waiting, now, free, service, most, 1000.0))
        waiting = [each for each in waiting if each not in formed.hopeless]
        if formed.batch:
            waiting = [each for each in waiting if each not in formed.batch]
            now = free = now + service.seconds(len(formed.batch))
            kept += sum(each.deadline >= now for each in formed.batch)
        elif waiting:
            now = min(formed.until, pending[0].arrived if pending else math.inf)
    return kept


@pytest.mark.parametrize("load", [0.3, 0.9, 1.3])
def test_more_are_in_time_than_with_any_fixed_delay(load):
    rng, most, service = random.Random(7), 32, Service(0.008, 0.0005, 1.1)
    rate = load * most / service.seconds(most)
    arrivals = list(itertools.accumulate(rng.expovariate(rate) for _ in range(1500)))
    budgets = [rng.choice((0.02, 0.05, 0.2)) for _ in arrivals]
    ours, *others = (
        served(rule, arrivals, budgets.__getitem__, service, most)
        for rule in (Slack(), Alone(), FixedWindow(ms=5.0), *(FixedDelay(ms=ms) for ms in (0.0, 1.0, 2.0, 5.0, 10.0)))
    )
    assert ours >= max(others)
    if load > 0.5:
        assert ours > 1.05 * max(others)
