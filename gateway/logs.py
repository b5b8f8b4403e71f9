"""Structured logging: one JSON object per line on stderr, with an allow-list of fields.

A field that is not listed here is not written, whatever a caller passes: no bodies, no keys, no client addresses.
"""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any, TextIO

import orjson

FIELDS = frozenset(
    {"age_s", "config", "control", "error", "field", "file", "gateway", "generation", "key", "listen", "loop", "on"}
    | {"path", "region", "request_id", "seconds", "source", "state", "version", "worker", "workers"}
)
MAX_TEXT = 4096
"""Characters of a message, a field or a traceback; a hostile peer's error text must not fill the disk."""


class JsonLines(logging.Formatter):
    """A record as one line: time, level, logger, text, and the listed extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "at": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage()[:MAX_TEXT],
        }
        for name in sorted(FIELDS & record.__dict__.keys()):
            value = record.__dict__[name]
            line[name] = value if isinstance(value, int | float | bool | None) else str(value)[:MAX_TEXT]
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return orjson.dumps(line, default=str).decode()


def start(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every log record of this process to stderr as JSON lines."""
    writer = logging.StreamHandler(stream or sys.stderr)
    writer.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[writer], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
