import random
import subprocess
import sys

import msgspec
import pytest

from workers.forming import Alone, FixedDelay, Slack
from workers.replay import Play, Played, play

CURVE = {"fixed": 0.008, "each": 0.0005}


def arrivals(rate, count, budgets=(0.02, 0.05, 0.2), seed=1):
    rng, at, made = random.Random(seed), 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate)
        made.append((at, rng.choice(budgets)))
    return made


def kept(told, played):
    return sum(
        done is not None and done <= at + budget
        for (at, budget), done in zip(told.arrivals, played.finished, strict=True)
    )


def test_one_request_takes_what_the_curve_says():
    played = play(Play(arrivals=[(1.0, None), (5.0, 0.001)], **CURVE))
    assert played == Played(finished=[pytest.approx(1.0085), None], calls=1, busy=pytest.approx(0.0085))


def test_without_batching_requests_follow_each_other():
    told = Play(arrivals=[(1.0, 1.0)] * 3, batching=Alone(), **CURVE)
    assert play(told).finished == pytest.approx([1.0085, 1.017, 1.0255])


def test_a_fixed_delay_is_waited_for():
    told = Play(arrivals=[(1.0, 1.0), (1.003, 1.0), (1.02, 1.0)], batching=FixedDelay(ms=5.0), **CURVE)
    assert play(told).finished == pytest.approx([1.014, 1.014, 1.0335])


def test_every_request_ends_once_and_the_same_play_has_the_same_end():
    told = Play(arrivals=arrivals(1500, 1500), noise=0.1, seed=3, **CURVE)
    played = play(told)
    assert played == play(told)
    assert len(played.finished) == 1500
    assert all(done is None or done > at for (at, _), done in zip(told.arrivals, played.finished, strict=True))
    assert 0 < kept(told, played) < 1500


def test_under_slack_what_is_executed_is_nearly_always_in_time():
    told = Play(arrivals=arrivals(1700, 3000), noise=0.02, batching=Slack(), **CURVE)
    played = play(told)
    answered = sum(done is not None for done in played.finished)
    assert kept(told, played) > 0.95 * answered
    assert answered < 3000, "it is overload"


def test_as_a_process_it_speaks_json():
    told = [Play(arrivals=[(at, None)], **CURVE) for at in (1.0, 2.0)]
    command = [sys.executable, "-m", "workers.replay"]
    done = subprocess.run(command, input=msgspec.json.encode(told), capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout, type=list[Played]) == [play(each) for each in told]
    wrong = subprocess.run(command, input=b'[{"arrivals": [], "fixed": 1, "each": 1, "speed": 1}]', capture_output=True)
    assert wrong.returncode == 2
    assert b"speed" in wrong.stderr
