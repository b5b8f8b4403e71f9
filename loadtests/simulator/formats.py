"""Lines of others' logs as rows with named fields: nginx and Envoy text by their own format strings, else CSV or JSON.

A format string is the one in the proxy's configuration, so that nobody has to write a regular expression: nginx's
`$name` and Envoy's `%OPERATOR(argument)%` become fields of that name, everything between them must stand there.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from loadtests import rows
from loadtests.rows import FileError, Row


class Format(Enum):
    ROWS = "rows"
    """CSV with a header, one JSON object per line, or one array of them, whichever it is."""
    ENVOY = "envoy"
    NGINX = "nginx"


ENVOY_DEFAULT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"'
)
"""Envoy's own, when none is configured (Envoy documentation, "Access logging")."""
_FIELD = {
    Format.ENVOY: re.compile(r"%([A-Z_]+(?:\([^)]*\))?)(?::\d+)?%"),
    Format.NGINX: re.compile(r"\$\{?([a-z0-9_]+)\}?"),
}
ABSENT = ("-", "")
"""How both write a value that is none."""
CLF_TIME = "%d/%b/%Y:%H:%M:%S %z"
"""nginx's $time_local."""
LATEST_SECONDS = 1e11
"""A larger number of seconds would be after the year 5000: such a time is in milliseconds."""


def read(path: Path, kind: Format, log_format: str) -> Iterator[Row]:
    """The rows of a log. Raises FileError with file and line."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content.startswith(rows.GZIP) else content).decode("utf-8", "replace")
    except (OSError, EOFError) as error:
        raise FileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if kind is Format.ROWS:
        yield from _array(path, text) if text.lstrip().startswith("[") else rows.read(path)
        return
    pattern, fields = compiled(kind, log_format)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = pattern.fullmatch(line.rstrip())
        if found is None:
            raise FileError(f"{path}:{number}: the line does not have the form of log_format: {line[:80]!r}")
        values = {name: value for name, value in zip(fields, found.groups(), strict=True) if value not in ABSENT}
        yield Row(path, number, values)


def _array(path: Path, text: str) -> Iterator[Row]:
    """What an API answers: one JSON array. Its elements are counted like lines."""
    try:
        found = msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise FileError(f"{path}: an array of JSON objects was expected: {error}") from error
    yield from (Row(path, number, fields) for number, fields in enumerate(found, start=1))


def names(kind: Format, log_format: str) -> set[str]:
    """The fields of a format string; none are known beforehand of rows."""
    return set() if kind is Format.ROWS else set(compiled(kind, log_format)[1])


def compiled(kind: Format, log_format: str) -> tuple[re.Pattern[str], list[str]]:
    """A format string as a pattern, and its fields in order."""
    field = _FIELD[kind]
    text = log_format.strip().removesuffix("\\n")
    fields, parts, at = [], [], 0
    for found in field.finditer(text):
        parts.append(re.escape(text[at : found.start()]))
        parts.append("(.*?)")
        fields.append(found[1])
        at = found.end()
    parts.append(re.escape(text[at:]))
    return re.compile("".join(parts)), fields


def instant(row: Row, field: str) -> float:
    """A time as Unix seconds: ISO 8601 (UTC where it has no zone), nginx's $time_local, seconds or milliseconds."""
    value = row.fields.get(field)
    if isinstance(value, str):
        text = value.strip().strip("[]")
        try:
            return _utc(datetime.fromisoformat(text))
        except ValueError:
            pass
        try:
            return datetime.strptime(text, CLF_TIME).timestamp()
        except ValueError:
            pass
    try:
        seconds = row.number(field, least=0.0)
    except FileError:
        raise row.wrong(field, f"a time was expected (ISO 8601, $time_local or seconds), not {value!r}") from None
    return seconds / 1e3 if seconds > LATEST_SECONDS else seconds


def _utc(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
