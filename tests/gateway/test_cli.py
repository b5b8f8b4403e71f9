"""The console script: a table, and nothing imported that is not run."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gateway.cli import COMMANDS, SUMMARIES, main


def test_help_lists_every_command_and_imports_none() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from gateway.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "print('heavy:', [m for m in ('aiohttp', 'redis', 'numpy', 'workers', 'loadtests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    assert "heavy: []" in done.stdout


def test_every_command_has_its_line() -> None:
    assert set(SUMMARIES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: " in done.output


def test_version_and_mistakes() -> None:
    runner = CliRunner()
    assert importlib.metadata.version("isochrone") in runner.invoke(main, ["--version"]).output
    assert runner.invoke(main, ["nonsense"]).exit_code == 2
