"""`python -m loadtests.fit TRACE --name N --source S --licence L > loadtests/fitted/N.yaml`: learn a trace's shape.

Tables of quantiles, so that no family of distributions is assumed; what they draw is compared with the trace, and the
distance stands beside each table. Run once per trace; the results ship, the traces do not.
"""

from __future__ import annotations

import sys

import click
import msgspec
import numpy as np
from ruamel.yaml import YAML

from loadtests.arrivals import Moments
from loadtests.prefixes import Prefix, talk
from loadtests.rows import FileError
from loadtests.sizes import Fit, Floats, Gaps, Ints, Reuse, Table, inverted
from loadtests.traces import Trace, load

LEVELS = (
    *(0.0, 0.001, 0.0025, 0.005),
    *(percent / 100 for percent in range(1, 100)),
    *(0.995, 0.9975, 0.999, 0.9995, 0.9999, 1.0),
)
"""Every percent, closer at the ends, where sizes and gaps have their heavy tails."""
DRAWN = 200_000
"""Requests drawn to judge a fit: the distance of two equal distributions is then below 0.004."""
RUNS = 5
"""Over which the hit rate of drawn conversations is averaged."""


def fit(trace: Trace, name: str, source: str, licence: str) -> Fit:
    """The shape of a trace, with how well it is met."""
    shape = Fit(
        name=name,
        source=source,
        licence=licence,
        requests=len(trace.records),
        levels=LEVELS,
        prompt_tokens=_table(trace.prompt_tokens),
        output_tokens=_table(trace.output_tokens),
        rank_correlation=round(spearman(trace.prompt_tokens, trace.output_tokens), 4),
        gaps=None if trace.at is None else _gaps(np.diff(trace.at)),
        reuse=_reuse(trace),
    )
    return shape if shape.reuse is None else msgspec.structs.replace(shape, reuse=_judged(trace, shape))


def _table(sizes: Ints) -> Table:
    quantiles = np.quantile(sizes, LEVELS).round(1)
    drawn = inverted(LEVELS, quantiles, np.random.default_rng(0).uniform(size=DRAWN))
    return Table(mean=round(float(sizes.mean()), 1), quantiles=tuple(quantiles.tolist()), ks=round(ks(drawn, sizes), 4))


def _gaps(gaps: Floats) -> Gaps | None:
    """None where the recorder's clock was coarser than most gaps (Mooncake's ticks every 3 s)."""
    if not np.median(gaps):
        return None
    relative = gaps / gaps.mean()
    quantiles = np.quantile(relative, LEVELS)
    drawn = np.interp(np.random.default_rng(0).uniform(size=DRAWN), LEVELS, quantiles)
    return Gaps(
        cv=round(float(relative.std()), 3),
        drawn_cv=round(float(drawn.std() / drawn.mean()), 3),
        quantiles=tuple(float(f"{value:.4g}") for value in quantiles),
        ks=round(ks(drawn, relative), 4),
    )


def _reuse(trace: Trace) -> Reuse | None:
    """Who goes on from whom: the last earlier request that had the last block which is repeated."""
    prefixes = [record.prefix for record in trace.records]
    if trace.at is None or not any(prefixes):
        return None
    shared = next((count for count, level in enumerate(zip(*prefixes, strict=False)) if len(set(level)) > 1), 0)
    latest: dict[int, int] = {}
    first, think, grown, hits = [], [], [], 0
    for number, prefix in enumerate(prefixes):
        known = next((count for count, block in enumerate(prefix) if block not in latest), len(prefix))
        hits += known
        if known > shared:
            think.append(trace.at[number] - trace.at[latest[prefix[known - 1]]])
            grown.append(len(prefix) - known)
        else:
            first.append(int(trace.prompt_tokens[number]))
        latest.update(dict.fromkeys(prefix, number))
    return Reuse(
        hit_rate=round(hits / sum(map(len, prefixes)), 4),
        drawn_hit_rate=0.0,
        shared_blocks=shared,
        follow_ups=round(len(grown) / len(prefixes), 4),
        first_prompt_tokens=_table(np.array(first)),
        grown_blocks=tuple(np.quantile(grown, LEVELS).round(1).tolist()),
        think_s=round(float(np.mean(think)), 1),
        think=tuple((np.quantile(think, LEVELS) / np.mean(think)).round(4).tolist()),
    )


def hit_rate(prefixes: list[Prefix]) -> float:
    """Share of all blocks that an endless cache would have held: those of beginnings seen before."""
    seen: set[int] = set()
    hits = 0
    for prefix in prefixes:
        hits += next((count for count, block in enumerate(prefix) if block not in seen), len(prefix))
        seen.update(prefix)
    return hits / sum(map(len, prefixes))


def _judged(trace: Trace, shape: Fit) -> Reuse:
    """The fit's conversations, with the hit rate of as many requests drawn from it at the trace's rate."""
    assert shape.reuse is not None
    first = msgspec.structs.replace(shape, prompt_tokens=shape.reuse.first_prompt_tokens)
    requests, rates = len(trace.records), []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        nowhere = np.zeros(requests, np.int64)
        times = Moments(np.sort(rng.uniform(0, trace.seconds, requests)), nowhere, nowhere - 1)
        rates.append(hit_rate(talk(shape, times, first.draw(rng, requests)[0], rng).prefix))
    return msgspec.structs.replace(shape.reuse, drawn_hit_rate=round(float(np.mean(rates)), 4))


def spearman(a: Ints, b: Ints) -> float:
    """Rank correlation, ties by their mean rank; 0 where one of the two does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Ints) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def ks(a: Floats | Ints, b: Floats | Ints) -> float:
    """Largest distance between two empirical distribution functions."""
    grid = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


@click.command()
@click.argument("path", type=click.Path())
@click.option("--name", required=True, help="Of the fit: what `sizes:` in a scenario calls it.")
@click.option("--source", required=True, help="Where the trace is published.")
@click.option("--licence", required=True)
def main(path: str, name: str, source: str, licence: str) -> None:
    """Print the shape of the trace in the file PATH, as YAML."""
    try:
        shape = fit(load(path), name, source, licence)
    except FileError as error:
        raise click.ClickException(str(error)) from error
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 116
    yaml.dump(msgspec.to_builtins(shape), sys.stdout)


if __name__ == "__main__":
    main()
