"""One timer wheel for every timeout of the data plane, so that no request costs the event loop a timer.

An `Alarm` waits in at most one slot. Setting it later than it already waits is one assignment (it is put back when
its slot comes round); setting it earlier moves it. It never rings early, and at most one tick late while the loop
turns. Follows Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 6.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

log = logging.getLogger(__name__)

TICK = 0.01
"""Seconds a slot spans: the lateness a timeout may have. 100 wake-ups a second cost 0.1 % of a core."""
SLOTS = 1024
"""Slots of the ring: alarms within 10 s are touched once, later ones once more per turn."""


class Alarm:
    """Something that may run out of time. A subclass says in `ring` what then happens."""

    __slots__ = ("_due", "_slot", "_turn")

    def __init__(self) -> None:
        self._due = math.inf
        self._turn = 0.0
        """When its slot comes round, at the earliest."""
        self._slot: set[Alarm] | None = None

    def ring(self, now: float) -> None:
        """Called once when the time is up; may set the alarm anew."""
        raise NotImplementedError


class TimerWheel:
    """The slots, a cursor through them, and the one `call_later` that moves it."""

    def __init__(self, clock: Callable[[], float], tick: float = TICK, slots: int = SLOTS) -> None:
        self._clock = clock
        self._width = tick
        self._slots: list[set[Alarm]] = [set() for _ in range(slots)]
        self._count = slots
        self._cursor = int(clock() / tick)
        self._timer: asyncio.TimerHandle | None = None
        self.faults = 0
        """Alarms whose `ring` raised."""

    def __repr__(self) -> str:
        return f"<TimerWheel {sum(map(len, self._slots))} set>"

    def set(self, alarm: Alarm, due: float) -> None:
        """Let `alarm` ring at `due`, whatever it was set to before; infinity is never."""
        alarm._due = due
        slot = alarm._slot
        if slot is not None:
            if due >= alarm._turn:
                return  # it waits in an earlier slot already, and is put back, or dropped, when that comes round
            slot.discard(alarm)
        if due < math.inf:
            self._put(alarm, due)

    def clear(self, alarm: Alarm) -> None:
        """Forget the alarm: it will not ring."""
        if alarm._slot is not None:
            alarm._slot.discard(alarm)
            alarm._slot = None

    def _put(self, alarm: Alarm, due: float) -> None:
        tick = int(due / self._width) + 1
        if tick <= self._cursor:
            tick = self._cursor + 1
        elif tick - self._cursor >= self._count:
            tick = self._cursor + self._count - 1
        alarm._turn = tick * self._width
        alarm._slot = slot = self._slots[tick % self._count]
        slot.add(alarm)

    def advance(self, now: float) -> None:
        """Ring everything that is due, and put the rest of the passed slots back."""
        target = int(now / self._width)
        for tick in range(max(self._cursor + 1, target - self._count + 1), target + 1):
            self._cursor = tick
            index = tick % self._count
            slot = self._slots[index]
            if slot:
                self._slots[index] = set()
                while slot:  # an alarm that rings may clear or move others of its slot
                    self._turn(slot.pop(), now)

    def _turn(self, alarm: Alarm, now: float) -> None:
        alarm._slot = None
        if alarm._due > now:
            if alarm._due < math.inf:
                self._put(alarm, alarm._due)
            return
        try:
            alarm.ring(now)
        except Exception:
            self.faults += 1
            log.exception("an alarm failed: %r", alarm)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop turn the wheel until `stop`."""
        if self._timer is None:
            self._arm(loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._width, self._ticked, loop)

    def _ticked(self, loop: asyncio.AbstractEventLoop) -> None:
        self.advance(self._clock())
        if self._timer is not None:
            self._arm(loop)
