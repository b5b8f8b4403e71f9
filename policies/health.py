"""Whether a worker may be sent requests: a state table driven by outcomes, probes, leases and operators.

    SERVING --failures--> EJECTED --time--> PROBING --answer--> SERVING (slowly)
       any --drain--> DRAINING --undrain--> SERVING          any --lease ends--> GONE --seen again--> SERVING

Ejection is per worker: its endpoints share a process, an address and an accelerator. The fleet caps how many may be
ejected at once and ignores health altogether when too few are left (panic): then the health data is at fault.
"""

from __future__ import annotations

import enum
import random
from typing import Annotated

import msgspec

from policies.records import Seconds, Share

Positive = Annotated[int, msgspec.Meta(ge=1)]
SUCCESS_GAIN = 0.05
"""Gain of the success rate: about the last twenty attempts count."""


class State(enum.Enum):
    SERVING = "serving"
    EJECTED = "ejected"
    PROBING = "probing"
    DRAINING = "draining"
    GONE = "gone"


class Event(enum.Enum):
    ANSWERED = enum.auto()
    EJECT = enum.auto()
    EXPIRED = enum.auto()
    DRAIN = enum.auto()
    UNDRAIN = enum.auto()
    LEFT = enum.auto()
    SEEN = enum.auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.SERVING, Event.EJECT): State.EJECTED,
    (State.PROBING, Event.EJECT): State.EJECTED,
    (State.EJECTED, Event.EXPIRED): State.PROBING,
    (State.PROBING, Event.ANSWERED): State.SERVING,
    (State.EJECTED, Event.ANSWERED): State.SERVING,
    (State.SERVING, Event.DRAIN): State.DRAINING,
    (State.EJECTED, Event.DRAIN): State.DRAINING,
    (State.PROBING, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.UNDRAIN): State.SERVING,
    (State.SERVING, Event.LEFT): State.GONE,
    (State.EJECTED, Event.LEFT): State.GONE,
    (State.PROBING, Event.LEFT): State.GONE,
    (State.DRAINING, Event.LEFT): State.GONE,
    (State.GONE, Event.SEEN): State.SERVING,
}
"""Pairs that are not listed change nothing."""


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Defaults of faults.md section 5, after Envoy's outlier detection and Finagle's failure accrual."""

    consecutive_failures: Positive = 5
    consecutive_connect_failures: Positive = 2
    """A refused or timed-out connection says more than an error answer does."""
    consecutive_probe_failures: Positive = 3
    min_success_rate: Share = 0.85
    min_samples: Positive = 20
    ejection_s: Seconds = 5.0
    """First ejection; each following one lasts as much longer, up to `max_ejection_s`."""
    max_ejection_s: Seconds = 60.0
    jitter: Share = 0.2
    max_ejected_share: Share = 0.5
    panic_share: Share = 0.5
    """Below this share of a model's workers in service, health is ignored."""
    rest_s: Seconds = 0.25
    """How long a worker that refused as full is left alone: one heartbeat, after which its load is known."""


class Health:
    """One worker's health. `eject` says when ejection is due; the fleet decides whether the cap allows it."""

    __slots__ = (
        "_attempts",
        "_connect_failures",
        "_ejections",
        "_failures",
        "_probe_failures",
        "_success_rate",
        "config",
        "rests_until",
        "slow",
        "state",
        "until",
    )

    def __init__(self, config: HealthConfig) -> None:
        self.config = config
        self.state = State.SERVING
        self.until = 0.0
        """End of an ejection."""
        self.rests_until = 0.0
        self.slow = 0
        """While positive: how many requests may be in flight at once; one more with every answer."""
        self._ejections = 0
        self._forget()

    def _forget(self) -> None:
        self._failures = self._connect_failures = self._probe_failures = self._attempts = 0
        self._success_rate = 1.0

    def apply(self, event: Event) -> bool:
        """Move by the table; say whether the state changed."""
        new = TRANSITIONS.get((self.state, event), self.state)
        changed = new is not self.state
        self.state = new
        return changed

    def begin_slowly(self) -> None:
        """Nobody knows yet what it can do: one that looks idle because it fails fast, or lies, gets little at first."""
        self.slow = SLOW_START

    def answered(self) -> None:
        """A request was answered."""
        self._attempts += 1
        self._failures = self._connect_failures = self._probe_failures = 0
        self._success_rate += SUCCESS_GAIN * (1.0 - self._success_rate)
        if self.state is State.PROBING or self.state is State.EJECTED:
            self.apply(Event.ANSWERED)
            self.slow = SLOW_START
        elif self.slow:
            self.slow = 0 if self.slow > SLOW_START_LIMIT else self.slow + 1
        elif self._ejections and self._attempts > self.config.min_samples:
            self._ejections = 0  # it has proved itself: the next ejection is a short one again

    def failed(self, *, connect: bool = False) -> bool:
        """An attempt failed on the worker's side; say whether ejection is due."""
        self._attempts += 1
        self._failures += 1
        self._connect_failures = self._connect_failures + 1 if connect else 0
        self._success_rate -= SUCCESS_GAIN * self._success_rate
        config = self.config
        return self.state is State.PROBING or (
            self.state is State.SERVING
            and (
                self._failures >= config.consecutive_failures
                or self._connect_failures >= config.consecutive_connect_failures
                or (self._attempts >= config.min_samples and self._success_rate < config.min_success_rate)
            )
        )

    def probed(self, ok: bool) -> bool:
        """A probe came back or did not; say whether ejection is due."""
        if ok:
            self._probe_failures = 0
            return False
        self._probe_failures += 1
        return self.state is not State.EJECTED and self._probe_failures >= self.config.consecutive_probe_failures

    def eject(self, now: float, rng: random.Random) -> None:
        if self.apply(Event.EJECT):
            self._ejections += 1
            length = min(self.config.max_ejection_s, self.config.ejection_s * self._ejections)
            self.until = now + length * (1.0 + self.config.jitter * rng.random())
            self._forget()

    def __repr__(self) -> str:
        return f"<Health {self.state.value} {self._success_rate:.0%} of {self._attempts}>"


SLOW_START = 2
"""Requests in flight at once that slow start begins with."""
SLOW_START_LIMIT = 32
"""Requests in flight at which slow start ends: after about thirty answers nothing is held back any more."""
