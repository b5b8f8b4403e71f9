"""When requests come: a renewal process per origin, bent by the sun and topped by bursts.

Gaps are drawn with mean 1 and laid on a clock that runs as fast as the origin's rate, so every process takes a
varying rate alike. A process starts in equilibrium, not with an arrival: with heavy gaps that makes a difference.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from loadtests.sizes import Floats, Ints, fitted

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

GRID = 4096
"""Points at which a day's cumulative rate is known; between them it is taken as even."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a demand."""


class Origin(NamedTuple):
    """Where requests come from."""

    share: float = 1.0
    """Of all requests, relative to the other origins."""
    longitude: float = 0.0


class Process(enum.Enum):
    POISSON = "poisson"
    EVEN = "even"
    GAMMA = "gamma"
    """Gaps are gamma distributed with the given coefficient of variation: 1 is Poisson, more comes in clumps."""
    FITTED = "fitted"
    """Gaps are drawn from those of a trace."""


class Arrivals(_Part, frozen=True, kw_only=True):
    """The gaps between the requests of one origin."""

    process: Process = Process.POISSON
    cv: Positive = 1.0
    """Of the gaps, with `process: gamma`."""
    like: str = ""
    """Name of a fit, with `process: fitted`."""

    def __post_init__(self) -> None:
        if (self.process is Process.FITTED) != bool(self.like):
            raise ValueError("`like` names the fit of `process: fitted`, and of no other")
        if self.process is Process.FITTED and fitted(self.like).gaps is None:
            raise ValueError(f"like: the fit {self.like!r} has no arrival times")


class Day(_Part, frozen=True, kw_only=True):
    """Every origin follows its sun: its rate swings around its mean as a cosine of the local hour."""

    length_s: Positive
    """Of a day, in seconds of the run: 86,400 is real time."""
    depth: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """By how much of the mean the rate rises and falls."""
    peak_hour: Annotated[float, Meta(ge=0, lt=24)] = 15.0
    """Local solar time of the highest rate."""
    starts_utc_hour: Annotated[float, Meta(ge=0, lt=24)] = 0.0

    def factor(self, at: Floats, longitude: float | Floats) -> Floats:
        """Rate over mean rate."""
        return 1 + self.depth * np.cos(self._angle(at, longitude))

    def grown(self, at: Floats, longitude: float) -> Floats:
        """Integral of `factor` from 0 to `at`."""
        per_second = 2 * math.pi / self.length_s
        start = self._angle(np.zeros(1), longitude)
        return at + self.depth * (np.sin(self._angle(at, longitude)) - np.sin(start)) / per_second

    def _angle(self, at: Floats, longitude: float | Floats) -> Floats:
        hour = self.starts_utc_hour + 24 * at / self.length_s + np.asarray(longitude) / 15
        return 2 * math.pi * (hour - self.peak_hour) / 24


class Burst(_Part, frozen=True, kw_only=True):
    """A flash crowd, or one tenant's flood: requests beside the usual ones, for a while."""

    at: NotNegative
    lasts: Positive
    factor: Annotated[float, Meta(gt=1)]
    """Usual and extra requests together, as a multiple of the usual ones."""
    origins: tuple[str, ...] = ()
    """Empty: everywhere."""
    tenant: str = ""
    """Whose they are; empty: as usual."""


class Moments(NamedTuple):
    """Arrivals, sorted."""

    at: Floats
    origin: Ints
    """Index into the origins."""
    burst: Ints
    """Index of the burst it belongs to, -1 for none."""


def moments(
    arrivals: Arrivals,
    bursts: tuple[Burst, ...],
    day: Day | None,
    rate: float,
    seconds: float,
    origins: Mapping[str, Origin],
    rng: np.random.Generator,
) -> Moments:
    """All arrivals of `seconds` at a mean `rate` per second over all origins."""
    total = sum(origin.share for origin in origins.values())
    at, where, which = [], [], []

    def add(times: Floats, index: int, burst: int) -> None:
        at.append(times)
        where.append(np.full(len(times), index))
        which.append(np.full(len(times), burst))

    for index, (name, origin) in enumerate(origins.items()):
        own = rate * origin.share / total
        if not own:
            continue
        clock = np.linspace(0, seconds, GRID)
        ticks = own * (clock if day is None else day.grown(clock, origin.longitude))
        count = _counted(arrivals, float(ticks[-1]), index / len(origins), rng)
        add(np.interp(count, ticks, clock), index, -1)
        for number, burst in enumerate(bursts):
            if not burst.origins or name in burst.origins:
                end = min(burst.at + burst.lasts, seconds)
                extra = rng.poisson((burst.factor - 1) * own * max(0.0, end - burst.at))
                add(rng.uniform(burst.at, end, extra) if extra else np.empty(0), index, number)
    if not at:
        return Moments(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    times = np.concatenate(at)
    order = np.argsort(times, kind="stable")
    return Moments(times[order], np.concatenate(where)[order], np.concatenate(which)[order])


def _counted(arrivals: Arrivals, length: float, phase: float, rng: np.random.Generator) -> Floats:
    """Arrivals on a clock on which one is due per tick."""
    match arrivals.process:
        case Process.EVEN:
            # A length of 64 that came out as 64.0000001 holds 64 of them, not 65.
            return np.arange(math.ceil(length - phase - 1e-6), dtype=np.float64) + phase
        case Process.POISSON:
            return np.sort(rng.uniform(0, length, rng.poisson(length)))
        case Process.GAMMA:
            shape = arrivals.cv**-2
            first = rng.gamma(shape + 1, 1 / shape)  # the gap that covers the start is likelier a long one
            return _laid_out(first * rng.uniform(), lambda n: rng.gamma(shape, 1 / shape, n), length)
        case Process.FITTED:
            levels, gaps = gap_table(arrivals.like)
            # Of many gaps one in proportion to its length.
            many = np.interp(rng.uniform(size=GRID), levels, gaps)
            first = rng.choice(many, p=many / many.sum())
            return _laid_out(first * rng.uniform(), lambda n: np.interp(rng.uniform(size=n), levels, gaps), length)


def gap_table(name: str) -> tuple[Floats, Floats]:
    """Levels and gaps of a fit, the gaps' mean brought to exactly 1."""
    fit = fitted(name)
    assert fit.gaps is not None
    levels, gaps = np.asarray(fit.levels), np.asarray(fit.gaps.quantiles)
    return levels, gaps / np.trapezoid(gaps, levels)


def _laid_out(first: float, draw: Callable[[int], Floats], length: float) -> Floats:
    """Gaps one after another until `length` is full."""
    parts, end = [np.array([first])], first
    while end < length:
        gaps = np.cumsum(draw(int(length - end) + 64)) + end
        parts.append(gaps)
        end = float(gaps[-1])
    times = np.concatenate(parts)
    return np.asarray(times[times < length], np.float64)
