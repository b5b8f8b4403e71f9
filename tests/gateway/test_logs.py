"""One line per record, listed fields only."""

from __future__ import annotations

import io
import json
import logging

import pytest

from gateway import logs
from gateway.logs import MAX_TEXT, JsonLines


def line(**options: object) -> dict[str, object]:
    record = logging.LogRecord("gateway.x", logging.WARNING, __file__, 1, "told %s", ("once",), None)
    record.__dict__.update(options)
    text = JsonLines().format(record)
    assert "\n" not in text
    told = json.loads(text)
    assert isinstance(told, dict)
    return told


def test_a_record_is_one_line_of_json() -> None:
    told = line(worker="w1", age_s=1.5, on=True, error=ValueError("no\nway"))
    assert told["level"] == "warning"
    assert told["text"] == "told once"
    assert (told["worker"], told["age_s"], told["on"], told["error"]) == ("w1", 1.5, True, "no\nway")


def test_fields_that_are_not_listed_are_not_written() -> None:
    canary = "sk-secret-canary"
    assert canary not in json.dumps(line(authorization=canary, body=canary, api_key=canary))


def test_texts_are_bounded() -> None:
    told = line(error="x" * 100_000)
    assert len(str(told["error"])) == MAX_TEXT


def test_faults_bring_their_trace() -> None:
    try:
        raise RuntimeError("here")
    except RuntimeError as error:
        told = line(exc_info=(type(error), error, error.__traceback__))
    assert "RuntimeError: here" in str(told["trace"])


def test_start_sends_everything_there(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    stream = io.StringIO()
    logs.start(stream=stream)
    logging.getLogger("gateway.anything").info("hello", extra={"region": "eu"})
    root.setLevel(level)
    assert json.loads(stream.getvalue())["region"] == "eu"
