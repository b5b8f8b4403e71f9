"""The last known fleet on disk, for a start while the registry is down.

Holds the workers' records as they were signed, so that a reader verifies them again, and never anything secret. The
file is replaced atomically or not at all; one that does not parse is reported, not raised.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from policies import records

SCHEMA = 1
MAX_BYTES = 64 * 1024 * 1024
"""Larger files are not read: about a thousand times what a hundred workers need."""


class Corrupt(msgspec.Struct, frozen=True):
    """A snapshot that cannot be used."""

    detail: str


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds."""

    saved_at: float
    """Unix time: the only clock that survives a restart."""
    workers: tuple[str, ...]
    """Sealed records."""
    drained: dict[str, tuple[str, ...]] = {}
    """Worker ids by region."""
    schema: int = SCHEMA

    def age(self, wall: float | None = None) -> float:
        """Seconds since it was written; never negative, whatever the clock did meanwhile."""
        return max(0.0, (time.time() if wall is None else wall) - self.saved_at)

    def sealed(self) -> list[bytes]:
        return [worker.encode() for worker in self.workers]


def take(sealed: Sequence[bytes], drained: dict[str, set[str]], wall: float) -> Snapshot:
    """The fleet as it is now. Records come from validated JSON, so they are text."""
    return Snapshot(
        saved_at=wall,
        workers=tuple(record.decode() for record in sealed),
        drained={region: tuple(sorted(ids)) for region, ids in sorted(drained.items()) if ids},
    )


def save(path: Path, snapshot: Snapshot) -> None:
    """Replace the file: a reader sees the old or the new one, whole, even after a power cut. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(snapshot))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(path: Path) -> Snapshot | Corrupt | None:
    """Read the file; `None` when there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return Corrupt("larger than any snapshot")
        snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        return Corrupt(str(error))
    if snapshot.schema != SCHEMA or len(snapshot.workers) > records.MAX_WORKERS:
        return Corrupt(f"schema {snapshot.schema}, {len(snapshot.workers)} workers")
    return snapshot
