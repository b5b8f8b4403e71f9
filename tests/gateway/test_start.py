"""The process: what the command line changes, what it refuses, and its signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from aiohttp import http_parser

from gateway.config import ConfigError, GatewayConfig, Listen
from gateway.start import Overlay, unfit

COMMAND = [sys.executable, "-m", "gateway", "gateway", "--port", "0", "--control-port", "0"]


class Process:
    """A gateway process that has said it is ready."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words[:1] == ["ready"], self.process.communicate(timeout=10)
        self.data, self.control = words[1], words[3]

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(self.control + path, timeout=5) as answer:
            told = json.loads(answer.read())
            assert isinstance(told, dict)
            return told

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[dict[str, object]]]:
        """The exit status and what was logged."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, [json.loads(line) for line in errors.splitlines()]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text("id: gw1\nregion: eu-west\n")
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_and_a_clean_end(number: int) -> None:
    process = Process()
    assert process.get("/healthz")["status"] == "ok"
    assert process.data.startswith("http://127.0.0.1:")
    status, logged = process.end(number)
    assert status == 0
    assert [line["text"] for line in logged] == ["serving", "draining", "drained"]


def test_hang_up_reads_the_file_again(config: Path) -> None:
    process = Process("--config", str(config))
    config.write_text("id: gw1\nregion: eu-west\nroutes: 7\n")
    process.process.send_signal(signal.SIGHUP)
    for _ in range(200):
        state = process.get("/healthz")["config"]
        assert isinstance(state, dict)
        if state["refused"]:
            break
    assert "$.routes" in str(state["refused"])
    status, logged = process.end()
    assert status == 0
    assert "configuration refused, the old one stays" in [line["text"] for line in logged]


def refused(*arguments: str, flags: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    command = [sys.executable, *flags, *COMMAND[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    return done.returncode, done.stderr


def test_a_bad_file_is_refused_with_its_place(config: Path) -> None:
    config.write_text("id: gw1\nroutes:\n  - balancer: nearest\n")
    status, text = refused("--config", str(config))
    assert status == 1
    assert f"{config}:3: $.routes[0].balancer" in text
    assert "Traceback" not in text


def test_optimised_bytecode_and_a_python_parser_are_refused() -> None:
    status, text = refused(flags=("-O",))
    assert (status, "-O" in text) == (1, True)
    status, text = refused(AIOHTTP_NO_EXTENSIONS="1")
    assert (status, "C parser" in text) == (1, True)


def test_exposure_on_the_command_line_is_checked_like_the_files() -> None:
    status, text = refused("--host", "0.0.0.0")
    assert status == 1
    assert "$.listen.host" in text
    status, text = refused("--host", "192.0.2.1.")
    assert status == 1


def test_a_taken_port_is_told_with_the_options_that_choose_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options in (("--port", port, "--control-port", "0"), ("--port", "0", "--control-port", port)):
            status, text = refused(*options)
            assert status == 1
            assert "choose another with --port and --control-port" in text
            assert "Traceback" not in text


def test_this_interpreter_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unfit() is None
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    assert "C parser" in str(unfit())


def test_the_command_line_goes_over_the_file() -> None:
    given = GatewayConfig(listen=Listen(port=1), registries={"eu": "redis://127.0.0.1:1"})
    assert Overlay().over(given) == given
    changed = Overlay(host="localhost", port=2, grpc_port=4, control_port=3, redis="redis://127.0.0.1:2").over(given)
    assert (changed.listen, changed.control.port) == (Listen(host="localhost", port=2, grpc_port=4), 3)
    assert (changed.redis, changed.registries) == ("redis://127.0.0.1:2", {})
    with pytest.raises(ConfigError):
        Overlay(redis="http://nonsense").over(given)
