import random

from loadtests.simulator.timeline import Timeline


def test_time_passes_in_order_and_equal_times_in_the_order_they_were_added():
    timeline, seen = Timeline(), []
    rng = random.Random(1)
    entries = [(rng.randrange(20) / 10, number) for number in range(200)]
    for when, number in entries:
        timeline.at(when, lambda n: seen.append((timeline.now, n)), number)
    timeline.run(until=5.0)
    assert seen == sorted(entries, key=lambda entry: entry[0])
    assert timeline.events == 200


def test_what_is_due_later_waits_and_the_clock_stands_where_it_was_told_to():
    timeline, seen = Timeline(), []
    timeline.at(1.0, seen.append, "a")
    timeline.at(3.0, seen.append, "b")
    timeline.run(until=2.0)
    assert (seen, timeline.now) == (["a"], 2.0)
    timeline.run(until=3.0)
    assert (seen, timeline.now) == (["a", "b"], 3.0)


def test_a_stop_ends_the_run_after_the_present_event():
    timeline, seen = Timeline(), []
    for when in (1.0, 2.0, 3.0):
        timeline.at(when, lambda n: (seen.append(n), timeline.stop() if n == 2.0 else None), when)
    timeline.run(until=9.0)
    assert (seen, timeline.now) == ([1.0, 2.0], 2.0)
