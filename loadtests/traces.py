"""Recorded requests, read by path. The form is told by the columns; `scenarios/README.md` says where traces are.

Azure     TIMESTAMP, ContextTokens, GeneratedTokens
Mooncake  timestamp (ms), input_length, output_length, hash_ids (JSON lines)
Vidur     num_prefill_tokens, num_decode_tokens (lengths alone: when they come is the demand's affair)
plain     prompt_tokens, output_tokens, and any of at (seconds), region, tenant, kind
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loadtests.rows import FileError, Row, peek, read
from loadtests.sizes import Floats, Ints

MOONCAKE_BLOCK = 512
"""Tokens that one of its hash ids stands for."""


class Record(NamedTuple):
    """One recorded request."""

    at: float | None
    """Seconds, from wherever the trace counts."""
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    region: str = ""
    tenant: str = ""
    kind: str = ""


class Trace(NamedTuple):
    """Recorded requests in the order of their times; `at` counts from the first."""

    path: Path
    at: Floats | None
    prompt_tokens: Ints
    output_tokens: Ints
    prefix: list[tuple[int, ...]]
    block_tokens: int
    """What one id of a prefix stands for; 0 where there are none."""
    region: list[str]
    tenant: list[str]
    kind: list[str]

    @property
    def seconds(self) -> float:
        """Its length: as if the gap after the last request were a mean one."""
        assert self.at is not None
        return float(self.at[-1]) * len(self.at) / max(1, len(self.at) - 1)

    @property
    def rate(self) -> float:
        return len(self.prompt_tokens) / self.seconds if self.seconds else 0.0


def load(path: Path) -> Trace:
    rows = read(path)
    form, first = peek(path, rows, tuple(FORMS))
    record = FORMS[form]
    records = [record(row) for row in chain((first,), rows)]
    at = None
    if records[0].at is not None:
        records.sort(key=lambda each: each.at or 0.0)
        at = np.array([each.at for each in records], np.float64)
        at -= at[0]
        if at[-1] <= 0:
            raise FileError(f"{path}: every request has the same time")
    prefix = [each.prefix for each in records]
    return Trace(
        path=path,
        at=at,
        prompt_tokens=np.array([each.prompt_tokens for each in records]),
        output_tokens=np.array([each.output_tokens for each in records]),
        prefix=prefix,
        block_tokens=MOONCAKE_BLOCK if any(prefix) else 0,
        region=[each.region for each in records],
        tenant=[each.tenant for each in records],
        kind=[each.kind for each in records],
    )


def _azure(row: Row) -> Record:
    try:
        at = datetime.fromisoformat(row.text("TIMESTAMP")).timestamp()
    except ValueError as error:
        raise row.wrong("TIMESTAMP", str(error)) from error
    return Record(at, row.count("ContextTokens"), row.count("GeneratedTokens"))


def _mooncake(row: Row) -> Record:
    ids = row.fields["hash_ids"]
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise row.wrong("hash_ids", "a list of whole numbers was expected")
    at = row.number("timestamp", least=0) / 1e3
    return Record(at, row.count("input_length"), row.count("output_length"), tuple(ids))


def _lengths(row: Row) -> Record:
    return Record(None, row.count("num_prefill_tokens"), row.count("num_decode_tokens"))


def _plain(row: Row) -> Record:
    at = row.number("at", least=0) if "at" in row.fields else None
    region, tenant, kind = (row.text(field) if field in row.fields else "" for field in ("region", "tenant", "kind"))
    return Record(at, row.count("prompt_tokens"), row.count("output_tokens"), (), region, tenant, kind)


FORMS: dict[frozenset[str], Callable[[Row], Record]] = {
    frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}): _azure,
    frozenset({"timestamp", "input_length", "output_length", "hash_ids"}): _mooncake,
    frozenset({"num_prefill_tokens", "num_decode_tokens"}): _lengths,
    frozenset({"prompt_tokens", "output_tokens"}): _plain,
}
"""By the columns that tell it."""
