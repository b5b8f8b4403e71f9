"""The fleet on disk: whole or not at all, and never trusted blindly."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway import snapshot
from gateway.snapshot import Corrupt, Snapshot
from policies.records import open_worker, seal_worker
from tests.gateway.members import worker


def taken(*worker_ids: str) -> Snapshot:
    sealed = [seal_worker(worker(worker_id), "k", lambda message: b"s") for worker_id in worker_ids]
    return snapshot.take(sealed, {"eu-west": {"b", "a"}, "us-east": set()}, 1000.0)


def test_what_was_saved_is_loaded_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    snapshot.save(path, taken("a", "b"))
    found = snapshot.load(path)
    assert isinstance(found, Snapshot)
    assert found.sealed() == [seal_worker(worker(w), "k", lambda message: b"s") for w in ("a", "b")]
    assert open_worker(found.sealed()[0], None) == worker("a")
    assert found.drained == {"eu-west": ("a", "b")}
    assert found.age(1060.0) == 60.0
    assert found.age(900.0) == 0.0  # the wall clock went back


def test_no_file_is_no_snapshot(tmp_path: Path) -> None:
    assert snapshot.load(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"saved_at": "yesterday", "workers": []}', b"\xff\xfe\x00",
     b'{"saved_at": 1, "workers": [1]}', b'{"saved_at": 1, "workers": [], "schema": 2}'],
)  # fmt: skip
def test_a_corrupt_file_is_a_value(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fleet"
    path.write_bytes(content)
    assert isinstance(snapshot.load(path), Corrupt)


def test_a_truncated_file_is_corrupt_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    snapshot.save(path, taken("a"))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert isinstance(snapshot.load(path), Corrupt)


def test_a_folder_or_a_giant_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(snapshot.load(tmp_path), Corrupt)
    monkeypatch.setattr(snapshot, "MAX_BYTES", 10)
    path = tmp_path / "fleet"
    snapshot.save(path, taken("a"))
    assert isinstance(snapshot.load(path), Corrupt)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fleet"
    snapshot.save(path, taken("a"))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        snapshot.save(path, taken("a", "b"))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["fleet"]


def test_others_cannot_read_it(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    snapshot.save(path, taken("a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
