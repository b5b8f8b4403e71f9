"""Others' log lines as rows, and their ways to write a time."""

import gzip

import pytest

from loadtests.rows import FileError, Row
from loadtests.simulator.formats import ENVOY_DEFAULT, Format, instant, names, read

ENVOY_LINE = (
    '[2016-04-15T20:17:00.310Z] "POST /api/v1/locations HTTP/2" 204 - 154 0 226 100 "10.0.35.28" "nsq2http" '
    '"cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2" "locations" "tcp://10.0.2.1:80"'
)
"""The example of Envoy's documentation."""
NGINX = '$remote_addr [$time_local] "$request" ${status} $request_time "$upstream_addr"'


@pytest.fixture
def log(tmp_path):
    def write(text):
        path = tmp_path / "access.log"
        path.write_text(text)
        return path

    return write


def test_envoys_documented_line_is_read(log):
    (row,) = read(log(ENVOY_LINE + "\n"), Format.ENVOY, ENVOY_DEFAULT)
    assert row.fields["DURATION"] == "226"
    assert row.fields["RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)"] == "100"
    assert row.fields["UPSTREAM_HOST"] == "tcp://10.0.2.1:80"
    assert row.fields["REQ(X-ENVOY-ORIGINAL-PATH?:PATH)"] == "/api/v1/locations"
    assert "RESPONSE_FLAGS" not in row.fields  # "-" is nothing
    assert instant(row, "START_TIME") == pytest.approx(1460751420.310)


def test_nginx_lines_are_read_by_their_own_format(log):
    text = '::1 [25/Nov/2026:13:14:15 +0100] "GET /\\x22x\\x22 HTTP/1.1" 200 0.5 "10.0.0.1:80, 10.0.0.2:80"\n\n'
    (row,) = read(log(text), Format.NGINX, NGINX)
    assert row.fields["request"] == "GET /\\x22x\\x22 HTTP/1.1"  # as nginx escapes quotes
    assert row.fields["upstream_addr"] == "10.0.0.1:80, 10.0.0.2:80"
    assert row.fields["status"] == "200"
    assert instant(row, "time_local") == 1795608855.0


def test_rows_are_csv_or_json(log):
    (row,) = read(log("a,b\n1,2\n"), Format.ROWS, "")
    assert row.fields == {"a": "1", "b": "2"}
    (row,) = read(log('{"a": 1}\n'), Format.ROWS, "")
    assert row.fields == {"a": 1}
    one, two = read(log('[{"a": 1},\n {"a": 2}]'), Format.ROWS, "")  # as LiteLLM's GET /spend/logs answers
    assert (one.fields, two.fields, two.line) == ({"a": 1}, {"a": 2}, 2)
    with pytest.raises(FileError, match=r"access\.log: an array of JSON objects"):
        list(read(log("[1, 2]"), Format.ROWS, ""))


def test_logs_that_were_rotated_and_packed_are_read(tmp_path):
    path = tmp_path / "access.log.2.gz"
    path.write_bytes(gzip.compress(ENVOY_LINE.encode()))
    (row,) = read(path, Format.ENVOY, ENVOY_DEFAULT)
    assert row.fields["DURATION"] == "226"


def test_the_fields_of_a_format_are_known():
    assert names(Format.NGINX, NGINX) == {
        "remote_addr",
        "time_local",
        "request",
        "status",
        "request_time",
        "upstream_addr",
    }
    assert "START_TIME" in names(Format.ENVOY, ENVOY_DEFAULT)
    assert names(Format.ROWS, "") == set()


def test_a_length_limit_belongs_to_no_name():
    assert names(Format.ENVOY, "%REQ(USER-AGENT):10% %PROTOCOL%") == {"REQ(USER-AGENT)", "PROTOCOL"}


def test_a_line_of_another_form_is_told_with_its_number(log):
    with pytest.raises(FileError, match=r"access\.log:2: .*log_format.*something"):
        list(read(log(ENVOY_LINE + "\nsomething else\n"), Format.ENVOY, ENVOY_DEFAULT))
    with pytest.raises(FileError, match="nowhere"):
        list(read(log("").parent / "nowhere", Format.NGINX, NGINX))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-03-02T09:00:00.101Z", 1772442000.101),
        ("2026-03-02 09:00:00.101", 1772442000.101),  # a database's timestamp without a zone is UTC
        ("2026-03-02T10:00:00+01:00", 1772442000.0),
        ("[02/Mar/2026:09:00:00 +0000]", 1772442000.0),
        ("1772442000.935", 1772442000.935),
        (1772442000935, 1772442000.935),
        (1772442000, 1772442000.0),
    ],
)
def test_times_as_people_write_them(log, value, seconds):
    assert instant(Row(log(""), 1, {"t": value}), "t") == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("value", ["yesterday", None, "", -5, True])
def test_what_is_no_time_is_told_with_file_line_and_field(log, value):
    with pytest.raises(FileError, match=r"access\.log:7: t: a time was expected"):
        instant(Row(log(""), 7, {"t": value}), "t")
