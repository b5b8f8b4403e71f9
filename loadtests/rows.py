"""Rows of tables given by path: CSV with a header, or one JSON object per line, gzipped or not.

Whatever is wrong with a file is said with its name, the line and the field.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

GZIP = b"\x1f\x8b"


class FileError(Exception):
    """A file given by path cannot be used; the text says where and why."""


class Row(NamedTuple):
    """One line, by field. Values are text (CSV) or whatever JSON holds."""

    path: Path
    line: int
    fields: dict[str, Any]

    def wrong(self, field: str, why: str) -> FileError:
        return FileError(f"{self.path}:{self.line}: {field}: {why}")

    def text(self, field: str) -> str:
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, f"a name was expected, not {value!r}")
        return value.strip()

    def number(self, field: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
        """A finite number at or over `least` and over `above`."""
        value = self.fields.get(field)
        try:
            number = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(field, f"a number was expected, not {value!r}")
        if number < least or number <= above:
            bound = f"at least {least:g}" if number < least else f"above {above:g}"
            raise self.wrong(field, f"{number:g} is out of range, it must be {bound}")
        return number

    def count(self, field: str, *, least: int = 0) -> int:
        number = self.number(field, least=least)
        if number != int(number):
            raise self.wrong(field, f"a whole number was expected, not {number:g}")
        return int(number)


def read(path: Path) -> Iterator[Row]:
    """The rows of a file. The first non-blank character tells JSON lines from CSV."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content.startswith(GZIP) else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {error}") from error
    if not text.strip():
        raise FileError(f"{path}: the file is empty")
    return _json(path, text) if text.lstrip().startswith("{") else _csv(path, text)


def _json(path: Path, text: str) -> Iterator[Row]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line, row in enumerate(text.splitlines(), start=1):
        if row.strip():
            try:
                yield Row(path, line, decode(row))
            except msgspec.MsgspecError as error:
                raise FileError(f"{path}:{line}: one JSON object was expected: {error}") from error


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(reader)]
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise FileError(f"{path}:{reader.line_num}: {len(values)} values, but the header names {len(header)}")
        yield Row(path, reader.line_num, dict(zip(header, values, strict=True)))


def peek(path: Path, rows: Iterator[Row], forms: Collection[frozenset[str]]) -> tuple[frozenset[str], Row]:
    """The first row, and the form whose columns it has; of several, the one with most."""
    first = next(rows, None)
    if first is None:
        raise FileError(f"{path}: there is a header, but no row")
    fitting = [form for form in forms if form <= first.fields.keys()]
    if fitting:
        return max(fitting, key=len), first
    nearest = min(forms, key=lambda form: len(form - first.fields.keys()))
    missing = ", ".join(sorted(nearest - first.fields.keys()))
    known = "; ".join(",".join(sorted(form)) for form in forms)
    raise FileError(f"{path}:1: no column {missing} (forms known, by their columns: {known})")
