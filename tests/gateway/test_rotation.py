"""Files that make room for themselves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.rotation import Rotation

HEAD = b"head\n"


def head() -> bytes:
    return HEAD


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"line %03d\n" % number for number in range(start, start + count)]


def content(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in sorted(path.parent.iterdir())}


def test_lines_are_appended_after_one_head(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rotation = Rotation(path, 1000, 2)
    rotation.write(numbered(2), head)
    rotation.write(numbered(1, 2), head)
    assert path.read_bytes() == HEAD + b"".join(numbered(3))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_file_becomes_older_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rotation = Rotation(path, 5 + 3 * 9, 2)  # a head and three lines
    for start in range(0, 12, 2):
        rotation.write(numbered(2, start), head)
    found = content(path)
    assert list(found) == ["log", "log.1", "log.2"]
    assert [found[name][len(HEAD) :] for name in ("log.2", "log.1", "log")] == [
        b"".join(numbered(3, start)) for start in (3, 6, 9)
    ]
    assert all(one.startswith(HEAD) and len(one) <= 5 + 3 * 9 for one in found.values())


def test_with_none_to_keep_it_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rotation = Rotation(path, 5 + 9, 0)
    rotation.write(numbered(3), head)
    assert content(path) == {"log": HEAD + b"line 002\n"}


def test_a_line_longer_than_a_file_gets_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Rotation(path, 8, 1).write([b"x" * 100 + b"\n", b"y\n"], head)
    assert content(path) == {"log": HEAD + b"y\n", "log.1": HEAD + b"x" * 100 + b"\n"}


def test_what_an_earlier_process_left_is_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old, and half a li")
    Rotation(path, 1000, 1).write(numbered(1), head)
    assert content(path) == {"log": HEAD + b"line 000\n", "log.1": b"old, and half a li"}


def test_a_full_disk_leaves_whole_lines_and_no_file_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    rotation = Rotation(path, 1000, 2)
    rotation.write(numbered(1), head)
    write, room = os.write, 4

    def short(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        taken, room = write(file, data[:room]), room - len(data[:room])
        return taken

    monkeypatch.setattr(os, "write", short)
    lines = numbered(2, 1)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            rotation.write(lines, head)
    assert lines == numbered(2, 1)  # not taken off
    assert content(path) == {"log": HEAD + b"line 000\n"}
    monkeypatch.setattr(os, "write", write)
    rotation.write(lines, head)
    assert lines == []
    assert content(path) == {"log": HEAD + b"".join(numbered(3))}


def test_a_closed_one_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rotation = Rotation(path, 1000, 1)
    rotation.write(numbered(1), head)
    rotation.close()
    rotation.close()
    rotation.write(numbered(1, 1), head)
    assert content(path) == {"log": HEAD + b"".join(numbered(2))}
