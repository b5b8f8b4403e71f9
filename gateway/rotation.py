"""A file that grows to a size and then makes room: `path` is written, `path.1` to `path.KEEP` are older, the rest goes.

Lines are written whole or not at all, also onto a full disk: what a failed write left behind is cut off again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

MODE = 0o600
"""What is logged is the operator's business only."""


class Rotation:
    """One file and its predecessors. Blocks: call it in a thread."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._file: int | None = None
        self._size = 0
        self._ours = False
        """Whether what stands at `path` was begun by this process."""
        self._lock = threading.Lock()
        """A write whose waiter was cancelled goes on."""

    def write(self, lines: list[bytes], head: Callable[[], bytes]) -> None:
        """Append the lines and take them off the list; each new file begins with `head()`.

        Raises OSError, and the lines that did not get in are left in the list.
        """
        with self._lock:
            while lines:
                self._make_room(len(lines[0]), head)
                count, size = 0, 0
                for line in lines:
                    if count and self._size + size + len(line) > self._max_bytes:
                        break
                    count, size = count + 1, size + len(line)
                self._append(b"".join(lines[:count]))
                del lines[:count]

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _make_room(self, size: int, head: Callable[[], bytes]) -> None:
        """Have a file open with its head in it, and with room for `size` bytes unless it is empty but for the head."""
        if self._file is None:
            self._open()
        if self._size and (not self._ours or self._size + size > self._max_bytes):
            self._turn()
            self._open()
        if not self._size:
            self._append(head())
            self._ours = True

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, MODE)
        self._size = os.fstat(self._file).st_size

    def _turn(self) -> None:
        """Every file becomes one older, and the oldest is gone."""
        self._close()
        if not self._keep:
            self.path.unlink()
            return
        for age in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{age}", f"{self.path}.{age + 1}")
        os.replace(self.path, f"{self.path}.1")

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            self._close()  # and opened anew next time: the disk may have been changed
            raise
        self._size += written
