"""`python -m loadtests.fit TRACE --name N --source S --licence L > loadtests/fitted/N.yaml`: learn a trace's shape.

Tables of quantiles, so that no family of distributions is assumed; what they draw is compared with the trace, and the
distance stands beside each table. Run once per trace; the results ship, the traces do not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
import numpy as np
from ruamel.yaml import YAML

from loadtests.rows import FileError
from loadtests.sizes import Fit, Floats, Gaps, Ints, Table
from loadtests.traces import Trace, load

LEVELS = (
    *(0.0, 0.001, 0.0025, 0.005),
    *(percent / 100 for percent in range(1, 100)),
    *(0.995, 0.9975, 0.999, 0.9995, 0.9999, 1.0),
)
"""Every percent, closer at the ends, where sizes and gaps have their heavy tails."""
DRAWN = 200_000
"""Requests drawn to judge a fit: the distance of two equal distributions is then below 0.004."""


def fit(trace: Trace, name: str, source: str, licence: str) -> Fit:
    """The shape of a trace, with how well it is met."""
    shape = Fit(
        name=name,
        source=source,
        licence=licence,
        requests=len(trace.prompt_tokens),
        levels=LEVELS,
        prompt_tokens=_table(trace.prompt_tokens, 0.0),
        output_tokens=_table(trace.output_tokens, 0.0),
        rank_correlation=round(spearman(trace.prompt_tokens, trace.output_tokens), 4),
        gaps=None if trace.at is None else _gaps(np.diff(trace.at)),
    )
    prompts, outputs = shape.draw(np.random.default_rng(0), DRAWN)
    return msgspec.structs.replace(
        shape,
        prompt_tokens=_table(trace.prompt_tokens, ks(prompts, trace.prompt_tokens)),
        output_tokens=_table(trace.output_tokens, ks(outputs, trace.output_tokens)),
    )


def _table(sizes: Ints, distance: float) -> Table:
    quantiles = tuple(round(value, 1) for value in np.quantile(sizes, LEVELS).tolist())
    return Table(mean=round(float(sizes.mean()), 1), quantiles=quantiles, ks=round(distance, 4))


def _gaps(gaps: Floats) -> Gaps:
    relative = gaps / gaps.mean()
    quantiles = np.quantile(relative, LEVELS)
    drawn = np.interp(np.random.default_rng(0).uniform(size=DRAWN), LEVELS, quantiles)
    return Gaps(
        cv=round(float(relative.std()), 3),
        quantiles=tuple(float(f"{value:.4g}") for value in quantiles),
        ks=round(ks(drawn, relative), 4),
    )


def spearman(a: Ints, b: Ints) -> float:
    """Rank correlation, ties by their mean rank."""
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
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the fit: what `sizes:` in a scenario calls it.")
@click.option("--source", required=True, help="Where the trace is published.")
@click.option("--licence", required=True)
def main(path: Path, name: str, source: str, licence: str) -> None:
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
