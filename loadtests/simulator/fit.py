"""Profiles of iteration-level workers, fitted to measurements: `python -m loadtests.simulator.fit FILE`.

FILE is Splitwise's table (https://github.com/Mutinifni/splitwise-sim, data/perf_model.csv, MIT), by path: it does not
ship. An iteration is taken as  a + b * decoding + c * prompt tokens  seconds (batching.py). What was measured is the
prefill of a whole batch (a + c * tokens) and the time per token of a batch that only decodes (a + b * batch);
one least-squares fit of both, of relative errors, so that short iterations count as much as long ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from loadtests.rows import FileError, Row, peek, read

COLUMNS = frozenset({"model", "hardware", "prompt_size", "batch_size", "prompt_time", "token_time", "tensor_parallel"})
LINEAR_UP_TO = 4096
"""Prompt tokens of one iteration beyond which attention grows faster than the prompt: engines chunk there."""
BATCH_UP_TO = 64
OVERSIZED = 0.5
"""A batch that prefills in less than this share of what half of it took did not fit: its row measured an error."""


class Measured(NamedTuple):
    """One row, in seconds."""

    batch: int
    tokens: int
    """Of all prompts together."""
    prompt_s: float
    token_s: float


class Fitted(NamedTuple):
    name: str
    decode_s: float
    decode_batch_s: float
    prefill_tokens_per_s: float
    error: float
    """Median of the relative errors."""
    rows: int

    def yaml(self) -> str:
        return (
            f"{self.name}: {{decode_s: {self.decode_s:.4f}, decode_batch_s: {self.decode_batch_s:.6f}, "
            f"prefill_tokens_per_s: {self.prefill_tokens_per_s:.0f}}}  # {self.error:.0%} off in the median of "
            f"{self.rows} rows"
        )


def load(path: Path) -> dict[str, list[Measured]]:
    """The rows by model, accelerator and how many of them work together. Raises FileError."""
    rows = read(path)
    _, first = peek(path, rows, (COLUMNS,))
    groups: dict[str, list[Measured]] = defaultdict(list)
    for row in _chained(first, rows):
        name = f"{row.text('model')}-{row.text('hardware')}-x{row.count('tensor_parallel', least=1)}"
        batch, prompt = row.count("batch_size", least=1), row.count("prompt_size", least=1)
        prompt_s, token_s = (row.number(field, above=0) / 1e3 for field in ("prompt_time", "token_time"))
        groups[name].append(Measured(batch, batch * prompt, prompt_s, token_s))
    return groups


def _chained(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def fit(name: str, rows: Sequence[Measured]) -> Fitted:
    """Raises FileError when the rows leave one of the three numbers open."""
    kept = [row for row in fitting(rows) if row.batch <= BATCH_UP_TO]
    decoding = [((1.0, row.batch, 0.0), row.token_s) for row in kept]
    prompts = [((1.0, 0.0, row.tokens), row.prompt_s) for row in kept if row.tokens <= LINEAR_UP_TO]
    terms, times = (np.array(part, dtype=float) for part in zip(*decoding, *prompts, strict=True))
    (a, b, c), _, rank, _ = np.linalg.lstsq(terms / times[:, None], np.ones(len(times)))
    if rank < 3:
        raise FileError(f"{name}: several batch sizes and several prompt sizes were expected")
    errors = np.abs(terms @ (a, b, c) / times - 1.0)
    return Fitted(name, float(a), max(0.0, float(b)), 1.0 / float(c), float(np.median(errors)), len(kept))


def fitting(rows: Sequence[Measured]) -> list[Measured]:
    """Those whose batch fitted into memory."""
    usual: dict[tuple[int, int], float] = {}
    for row in rows:
        usual.setdefault((row.batch, row.tokens), row.prompt_s)
    halves = {key: usual.get((key[0] // 2, key[1] // 2), 0.0) for key in usual}
    return [row for row in rows if row.prompt_s >= OVERSIZED * halves[row.batch, row.tokens]]


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def main(path: Path) -> None:
    """Print the fitted profiles of FILE as YAML."""
    try:
        for name, rows in load(path).items():
            click.echo(fit(name, rows).yaml())
    except FileError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
