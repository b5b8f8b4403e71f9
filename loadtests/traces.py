"""Recorded requests, read by path; `scenarios/README.md` says where traces are published.

    Azure     TIMESTAMP, ContextTokens, GeneratedTokens
    Mooncake  timestamp (ms), input_length, output_length, hash_ids (JSON lines)
    Vidur     num_prefill_tokens, num_decode_tokens
    plain     prompt_tokens, output_tokens, and any of at (seconds), region, tenant, kind

The columns tell the form. Where a trace has no times, the demand's arrivals decide when its requests come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loadtests.rows import FileError, Row, peek, read
from loadtests.sizes import Floats, Ints


class Record(NamedTuple):
    """One recorded request."""

    line: int
    at: float | None
    """Seconds, from wherever the trace counts."""
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    region: str = ""
    tenant: str = ""
    kind: str = ""


class Trace(NamedTuple):
    """Recorded requests in the order of their times."""

    path: Path
    records: list[Record]
    at: Floats | None
    """Seconds since the first."""
    prompt_tokens: Ints
    output_tokens: Ints
    blocks: int
    """One more than the largest id of a block."""

    @property
    def seconds(self) -> float:
        """Its length: as if after the last request came a gap of the mean length."""
        assert self.at is not None
        return float(self.at[-1]) * len(self.at) / (len(self.at) - 1)

    def mean(self) -> tuple[float, float]:
        return float(self.prompt_tokens.mean()), float(self.output_tokens.mean())

    def median(self) -> tuple[float, float]:
        return float(np.median(self.prompt_tokens)), float(np.median(self.output_tokens))

    def window(self, rate: float | None, seconds: float, start: float) -> tuple[Floats, Ints]:
        """When the requests of `seconds` come, and which they are: from a share `start` of the trace on.

        Time runs as fast as brings the whole trace to `rate` per second; as recorded without one. After the last
        record comes the first again, numbered on.
        """
        assert self.at is not None
        speed = 1.0 if rate is None else rate * self.seconds / len(self.at)
        cycles = int(seconds * speed / self.seconds) + 1
        offset = start * self.seconds
        turns = np.arange(cycles + 1)[:, None]
        at = ((self.at + self.seconds * turns).ravel() - offset) / speed
        rows = (np.arange(len(self.at)) + len(self.at) * turns).ravel()
        inside = (at >= 0) & (at < seconds)
        return at[inside], rows[inside]

    def recorded(self, row: int) -> Record:
        """The record of this number. A second turn has blocks of its own, or every cache would hold them already."""
        turn, index = divmod(row, len(self.records))
        record = self.records[index]
        if not turn or not record.prefix:
            return record
        return record._replace(prefix=tuple(block + turn * self.blocks for block in record.prefix))

    def check(self, field: str, known: Collection[str]) -> None:
        """Raises FileError for a name in a column (`region`, `kind`) that is not a known one."""
        for record in self.records:
            name = getattr(record, field)
            if name and name not in known:
                there_are = ", ".join(sorted(known))
                raise FileError(f"{self.path}:{record.line}: {field}: no such {field} {name!r}; there are {there_are}")


def load(path: str) -> Trace:
    """A trace, read once: it is asked for by every run."""
    where = Path(path)
    return _load(where, where.stat().st_mtime_ns if where.is_file() else 0)


@functools.lru_cache(maxsize=4)
def _load(where: Path, written: int) -> Trace:
    rows = read(where)
    form, first = peek(where, rows, tuple(FORMS))
    record = FORMS[form]
    records = [record(row) for row in chain((first,), rows)]
    at = None
    if records[0].at is not None:
        records.sort(key=lambda each: each.at or 0.0)
        at = np.array([each.at for each in records], np.float64)
        at -= at[0]
        if at[-1] <= 0:
            raise FileError(f"{where}: all requests have the same time, a trace needs two that differ")
    sizes = np.array([(each.prompt_tokens, each.output_tokens) for each in records])
    blocks = 1 + max((max(each.prefix, default=0) for each in records), default=0)
    return Trace(where, records, at, sizes[:, 0], sizes[:, 1], blocks)


def _azure(row: Row) -> Record:
    try:
        at = datetime.fromisoformat(row.text("TIMESTAMP")).timestamp()
    except ValueError as error:
        raise row.wrong("TIMESTAMP", str(error)) from error
    return Record(row.line, at, row.count("ContextTokens"), row.count("GeneratedTokens"))


def _mooncake(row: Row) -> Record:
    ids = row.fields.get("hash_ids")
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise row.wrong("hash_ids", "a list of whole numbers was expected")
    at = row.number("timestamp", least=0) / 1e3
    return Record(row.line, at, row.count("input_length"), row.count("output_length"), tuple(ids))


def _lengths(row: Row) -> Record:
    return Record(row.line, None, row.count("num_prefill_tokens"), row.count("num_decode_tokens"))


def _plain(row: Row) -> Record:
    at = row.number("at", least=0) if "at" in row.fields else None
    region, tenant, kind = (row.text(field) if field in row.fields else "" for field in ("region", "tenant", "kind"))
    return Record(row.line, at, row.count("prompt_tokens"), row.count("output_tokens"), (), region, tenant, kind)


FORMS: dict[frozenset[str], Callable[[Row], Record]] = {
    frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}): _azure,
    frozenset({"timestamp", "input_length", "output_length", "hash_ids"}): _mooncake,
    frozenset({"num_prefill_tokens", "num_decode_tokens"}): _lengths,
    frozenset({"prompt_tokens", "output_tokens"}): _plain,
}
"""By the columns that tell it."""
