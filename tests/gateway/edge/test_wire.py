"""Literal bytes: the few that are made rather than written down."""

from __future__ import annotations

import pytest

from gateway.edge import wire
from policies.reports import REPORT_FORMAT, REPORT_FORMAT_HEADER, REPORT_HEADER


@pytest.mark.parametrize(
    ("status", "line"), [(200, b"HTTP/1.1 200 OK"), (404, b"HTTP/1.1 404 Not Found"), (299, b"HTTP/1.1 299 ")]
)
def test_status_lines(status: int, line: bytes) -> None:
    assert wire.status_line(status) == line


def test_a_chunk_says_its_length_in_hexadecimal() -> None:
    assert wire.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_names_are_compared_in_lower_case() -> None:
    for names in (wire.HOP_BY_HOP, wire.NOT_FORWARDED, wire.ANSWER_FIELDS):
        assert all(name == name.lower() for name in names)


def test_framing_crosses_in_neither_direction() -> None:
    for name in (b"transfer-encoding", b"connection", b"content-length", b"upgrade", b"keep-alive", b"trailer"):
        assert name in wire.NOT_FORWARDED
        assert name not in wire.ANSWER_FIELDS
        assert not name.startswith(wire.ANSWER_PREFIXES)


def test_the_load_is_asked_for_in_the_words_of_its_schema_and_is_our_own_affair() -> None:
    assert f"\r\n{REPORT_FORMAT_HEADER}: {REPORT_FORMAT}".encode() == wire.LOAD_WANTED
    assert REPORT_FORMAT_HEADER.encode() in wire.NOT_FORWARDED
    assert REPORT_HEADER.encode() not in wire.ANSWER_FIELDS
    assert b"x-endpoint-load-metrics-bin".startswith(wire.ANSWER_DENIED_PREFIXES)
