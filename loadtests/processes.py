"""Child processes: start, wait for the line that says ready, notice a death, end by process id.

Each child runs in its own session, so a Ctrl-C in the terminal reaches only the parent, which ends the children in
order; and dies with its parent where `setpriv` exists. Output goes to a log file; its last lines explain a death.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 3.0
"""Seconds a child gets to end by itself before it is killed."""
READY = r"^ready "


class ChildError(Exception):
    """A child did not start, or died; the text says which and why."""


class Child:
    """One process. Ready once a line of its output matches `ready`; the match is kept in `said`."""

    def __init__(
        self, name: str, command: Sequence[str], logs: Path, *, ready: str = READY, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.said = ""
        self._ready = re.compile(ready)
        self._settled = threading.Event()
        """Set once it is ready or has closed its output."""
        self._process = subprocess.Popen(
            dying_with_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"<Child {self.name} pid {self.pid} {self.fate or 'running'}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def fate(self) -> str:
        """How it ended, in words; empty while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output, self.log.open("a") as log:
            for line in output:
                log.write(line)
                log.flush()
                if not self.said and self._ready.search(line):
                    self.said = line.strip()
                    self._settled.set()
        self._settled.set()

    def wait_ready(self, timeout: float) -> str:
        """The line that said ready. Raises ChildError when it died instead, or said nothing in time."""
        self._settled.wait(timeout)
        if self.said:
            return self.said
        if self._settled.is_set():
            self._process.wait(GRACE)
            raise ChildError(self.obituary())
        raise ChildError(f"{self.name} was not ready after {timeout:.0f} s; its output is in {self.log}{self._tail()}")

    def obituary(self) -> str:
        """One line for people: which child died and how. What it said last may be why, unless a signal ended it."""
        said = self._tail() if (self._process.poll() or 0) >= 0 else ""
        return f"{self.name} {self.fate}{said}"

    def _tail(self) -> str:
        """The last line of its output: the reason of one that did not start, of another only the latest it said."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"{'; its last line was' if self.said else ''}: {lines[-1]}" if lines else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone. One that has ended is left in peace."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def ask_to_end(self) -> None:
        if self.alive:
            self.send(signal.SIGCONT)  # a stopped process would not hear the SIGTERM
            self.send(signal.SIGTERM)

    def end(self, grace: float = GRACE) -> None:
        """Ask it to end, kill it when it does not, and reap it."""
        self.ask_to_end()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(GRACE)


def end_all(children: Sequence[Child]) -> None:
    """End all at once, then reap them one by one, in reverse order of their start."""
    for child in children:
        child.ask_to_end()
    until = time.monotonic() + GRACE
    for child in reversed(children):
        child.end(max(0.1, until - time.monotonic()))


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """The command, asked of the kernel to get SIGTERM when its parent dies, even by SIGKILL."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)


def isochrone(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "gateway", *arguments]


def free_ports(count: int) -> list[int]:
    """Different loopback ports nobody listens on now. Another process may take one; its user then says so."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def refuse_taken(host: str, port: int, option: str) -> None:
    """Raise ChildError when the port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ChildError(f"port {port} on {host}: {error.strerror}; choose another with {option}") from error
