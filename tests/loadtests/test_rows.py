import gzip

import pytest

from loadtests.rows import FileError, peek, read


def rows(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return list(read(path))


def test_csv_rows_know_their_lines(tmp_path):
    first, second = rows(tmp_path, "a, b\n1,x\n\n2,y\n")
    assert (first.line, first.fields) == (2, {"a": "1", "b": "x"})
    assert second.line == 4
    assert second.count("a") == 2
    assert second.text("b") == "y"


def test_json_lines_and_gzip(tmp_path):
    path = tmp_path / "table.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2.5}\n'))
    first, second = read(path)
    assert first.number("a") == 1
    assert (second.line, second.number("a")) == (3, 2.5)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbfa\n1\n")
    assert next(read(path)).count("a") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abc", "t.csv:2: a: a number was expected, not 'abc'"),
        ("", "t.csv:2: a: a number was expected, not ''"),
        ("nan", "t.csv:2: a: a number was expected, not 'nan'"),
        ("inf", "t.csv:2: a: a number was expected"),
        ("-1", "t.csv:2: a: -1 is out of range, it must be at least 0"),
        ("1.5", "t.csv:2: a: a whole number was expected, not 1.5"),
    ],
)
def test_a_bad_count_is_named(tmp_path, value, message):
    (row,) = rows(tmp_path, f"a,b\n{value},x\n", "t.csv")
    with pytest.raises(FileError, match=message):
        row.count("a")


def test_bounds_and_missing_fields(tmp_path):
    (row,) = rows(tmp_path, '{"zero": 0, "yes": true, "name": "  "}')
    with pytest.raises(FileError, match="zero: 0 is out of range, it must be above 0"):
        row.number("zero", above=0)
    with pytest.raises(FileError, match="yes: a number was expected, not True"):
        row.number("yes")
    with pytest.raises(FileError, match="gone: a number was expected, not None"):
        row.number("gone")
    with pytest.raises(FileError, match="name: a name was expected"):
        row.text("name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t: the file is empty"),
        (" \n", "t: the file is empty"),
        ("a,b\n1\n", "t:2: 1 values, but the header names 2"),
        ('{"a": 1}\n[2]\n', "t:2: one JSON object was expected"),
        ('{"a": \n', "t:1: one JSON object was expected"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, message):
    with pytest.raises(FileError, match=message):
        rows(tmp_path, text, "t")


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        read(tmp_path / "missing.csv")
    bad = tmp_path / "bad.gz"
    bad.write_bytes(gzip.compress(b"a\n1\n")[:-6])
    with pytest.raises(FileError, match=r"bad\.gz"):
        read(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match=r"bad\.gz"):
        read(bad)


def test_the_columns_tell_the_form(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n")
    narrow, wide, other = frozenset("a"), frozenset("ab"), frozenset("xyz")
    form, first = peek(path, read(path), (narrow, wide, other))
    assert form == wide
    assert first.fields["c"] == "3"
    with pytest.raises(FileError, match=r"t.csv:1: no column y, z \(forms known, by their columns: a,y,z; x,y,z\)"):
        peek(path, read(path), (frozenset("ayz"), other))
    path.write_text("a,b\n")
    with pytest.raises(FileError, match="there is a header, but no row"):
        peek(path, read(path), (narrow,))
