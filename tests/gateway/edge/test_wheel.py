"""The timer wheel: never early, at most one tick late, whatever is set, moved and cleared."""

from __future__ import annotations

import asyncio
import math
import random

from gateway.edge.wheel import TICK, Alarm, TimerWheel
from tests.fakes import Clock


class Bell(Alarm):
    __slots__ = ("rung",)

    def __init__(self) -> None:
        super().__init__()
        self.rung: list[float] = []

    def ring(self, now: float) -> None:
        self.rung.append(now)


def turn(wheel: TimerWheel, clock: Clock, seconds: float, step: float = TICK) -> None:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        wheel.advance(clock.now)


def test_random_alarms_ring_once_neither_early_nor_more_than_two_ticks_late() -> None:
    rng, clock = random.Random(7), Clock()
    wheel = TimerWheel(clock, slots=64)
    bells = [(Bell(), clock.now + rng.uniform(0, 5)) for _ in range(500)]
    for bell, due in bells:
        wheel.set(bell, due + 100)
        wheel.set(bell, due)
    turn(wheel, clock, 6)
    for bell, due in bells:
        assert len(bell.rung) == 1
        assert due <= bell.rung[0] <= due + 2 * TICK + 1e-9


def test_a_later_setting_replaces_an_earlier_one() -> None:
    clock = Clock()
    wheel, bell = TimerWheel(clock), Bell()
    wheel.set(bell, clock.now + 0.1)
    wheel.set(bell, clock.now + 0.5)
    turn(wheel, clock, 0.4)
    assert bell.rung == []
    turn(wheel, clock, 0.2)
    assert len(bell.rung) == 1


def test_cleared_and_infinite_alarms_do_not_ring() -> None:
    clock = Clock()
    wheel, cleared, never = TimerWheel(clock), Bell(), Bell()
    wheel.set(cleared, clock.now + 0.1)
    wheel.clear(cleared)
    wheel.clear(cleared)
    wheel.set(never, clock.now + 0.1)
    wheel.set(never, math.inf)
    turn(wheel, clock, 1)
    assert cleared.rung == never.rung == []
    assert repr(wheel) == "<TimerWheel 0 set>"


def test_an_alarm_may_clear_and_set_others_while_it_rings() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    bells = [Bell(), Bell()]

    class Meddler(Alarm):
        __slots__ = ()

        def ring(self, now: float) -> None:
            for bell in bells:
                wheel.clear(bell)
            wheel.set(self, now + 0.1)

    wheel.set(Meddler(), clock.now + 0.05)
    for bell in bells:
        wheel.set(bell, clock.now + 0.0501)
    turn(wheel, clock, 1)
    assert all(len(bell.rung) <= 1 for bell in bells)  # they share a slot, so some may have rung before
    assert repr(wheel) == "<TimerWheel 1 set>"


def test_a_fault_in_one_alarm_costs_the_others_nothing() -> None:
    clock = Clock()
    wheel, bell = TimerWheel(clock), Bell()

    class Broken(Alarm):
        __slots__ = ()

        def ring(self, now: float) -> None:
            raise ZeroDivisionError

    wheel.set(Broken(), clock.now + 0.05)
    wheel.set(bell, clock.now + 0.05)
    turn(wheel, clock, 0.2)
    assert len(bell.rung) == 1
    assert wheel.faults == 1


def test_a_loop_that_stood_still_rings_everything_once() -> None:
    clock = Clock()
    wheel, bells = TimerWheel(clock, slots=16), [Bell() for _ in range(50)]
    for index, bell in enumerate(bells):
        wheel.set(bell, clock.now + index * 0.05)
    turn(wheel, clock, 100, step=100)
    assert all(len(bell.rung) == 1 for bell in bells)


async def test_the_loop_turns_it_until_it_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    wheel, rung = TimerWheel(loop.time), asyncio.Event()

    class Signal(Alarm):
        __slots__ = ()

        def ring(self, now: float) -> None:
            rung.set()

    wheel.start(loop)
    wheel.set(Signal(), loop.time() + 0.02)
    async with asyncio.timeout(2):
        await rung.wait()
    wheel.stop()
    wheel.stop()
