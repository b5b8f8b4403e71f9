"""How large requests are: tables of quantiles fitted to public traces (`fitted/*.yaml`, made by fit.py), or ranges.

A fitted size is drawn by inverting its table; prompt and output keep the rank correlation of the trace through a
Gaussian copula. Gaps between arrivals and the reuse of prefixes are fitted beside the sizes, from the same trace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib import resources
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from ruamel.yaml import YAML

Share = Annotated[float, Meta(ge=0, le=1)]
Tokens = Annotated[int, Meta(ge=0)]
BLOCK_TOKENS = 512
"""Tokens that one id of a prompt's prefix stands for: as in Mooncake's traces."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a fit."""


class Table(_Part, frozen=True, kw_only=True):
    """A distribution: its value at each of the levels of the fit it stands in."""

    mean: float
    quantiles: tuple[float, ...]
    ks: Share
    """Kolmogorov-Smirnov distance between what the table draws and the trace."""


class Gaps(_Part, frozen=True, kw_only=True):
    """Times between arrivals, as multiples of their mean."""

    cv: float
    """Coefficient of variation: standard deviation over mean. 1 is Poisson's."""
    drawn_cv: float
    """The same, of gaps drawn from the table."""
    quantiles: tuple[float, ...]
    ks: Share


class Reuse(_Part, frozen=True, kw_only=True):
    """How prompts repeat the beginnings of earlier ones."""

    hit_rate: Share
    """Share of all prompt blocks that an endless cache would have held."""
    drawn_hit_rate: Share
    """The same, of conversations drawn from this fit."""
    shared_blocks: Annotated[int, Meta(ge=0)]
    """Blocks with which every prompt begins."""
    follow_ups: Share
    """Share of the requests that repeat more than those: they go on from an earlier one."""
    first_prompt_tokens: Table
    """Of the others."""
    grown_blocks: tuple[float, ...]
    """Quantiles of what a follow-up adds to what it repeats."""
    think_s: float
    """Mean time from a request to the one that goes on from it."""
    think: tuple[float, ...]
    """Quantiles of that time, as multiples of its mean."""


class Fit(_Part, frozen=True, kw_only=True):
    """What was learnt of one trace."""

    name: str
    source: str
    licence: str
    requests: int
    levels: tuple[Share, ...]
    """At which the tables were taken: from 0 to 1."""
    prompt_tokens: Table
    output_tokens: Table
    rank_correlation: Annotated[float, Meta(ge=-1, le=1)]
    """Spearman's, of prompt and output."""
    gaps: Gaps | None = None
    reuse: Reuse | None = None

    def draw(self, rng: np.random.Generator, requests: int) -> tuple[Ints, Ints]:
        """Prompt and output tokens of so many requests."""
        # The Gaussian copula whose Spearman correlation is rho has the Pearson correlation 2 sin(pi rho / 6).
        pearson = 2 * math.sin(math.pi * self.rank_correlation / 6)
        first, second = rng.standard_normal((2, requests))
        second = pearson * first + math.sqrt(1 - pearson * pearson) * second
        return (
            inverted(self.levels, self.prompt_tokens.quantiles, normal_cdf(first)),
            inverted(self.levels, self.output_tokens.quantiles, normal_cdf(second)),
        )

    def mean(self) -> tuple[float, float]:
        return self.prompt_tokens.mean, self.output_tokens.mean

    def median(self) -> tuple[float, float]:
        middle = self.levels.index(0.5)
        return self.prompt_tokens.quantiles[middle], self.output_tokens.quantiles[middle]


class Ranges(_Part, frozen=True, kw_only=True):
    """Sizes uniform between two bounds, both included."""

    prompt_tokens: tuple[Tokens, Tokens]
    output_tokens: tuple[Tokens, Tokens] = (0, 0)

    def __post_init__(self) -> None:
        for field in ("prompt_tokens", "output_tokens"):
            low, high = getattr(self, field)
            if low > high:
                raise ValueError(f"{field}: the first of a range is its lower end")

    def draw(self, rng: np.random.Generator, requests: int) -> tuple[Ints, Ints]:
        return uniform(rng, self.prompt_tokens, requests), uniform(rng, self.output_tokens, requests)

    def mean(self) -> tuple[float, float]:
        return sum(self.prompt_tokens) / 2, sum(self.output_tokens) / 2

    def median(self) -> tuple[float, float]:
        return self.mean()


def inverted(levels: Sequence[float], quantiles: Sequence[float] | Floats, at: Floats) -> Ints:
    """Sizes at these levels; between two quantiles even in the logarithm, as they spread over orders of magnitude."""
    logs = np.interp(at, levels, np.log(np.maximum(quantiles, 0.5)))
    return np.rint(np.exp(logs)).astype(np.int64)


def uniform(rng: np.random.Generator, bounds: tuple[int, int], requests: int) -> Ints:
    return rng.integers(bounds[0], bounds[1], size=requests, endpoint=True)


def normal_cdf(values: Floats) -> Floats:
    """Of the standard normal, by a table: exact to 1e-6, and without scipy."""
    return np.interp(values, *_normal_table())


@functools.cache
def _normal_table() -> tuple[Floats, Floats]:
    grid = np.linspace(-6, 6, 4801)
    return grid, np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in grid])


@functools.cache
def fitted(name: str) -> Fit:
    """One of the shipped fits."""
    folder = resources.files("loadtests") / "fitted"
    source = folder / f"{name}.yaml"
    if not source.is_file():
        raise ValueError(f"sizes: no fit {name!r}; there are {', '.join(shipped())}")
    return msgspec.convert(YAML(typ="safe", pure=True).load(source.read_text()), Fit)


def shipped() -> list[str]:
    """Names of the fits."""
    files = (resources.files("loadtests") / "fitted").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
