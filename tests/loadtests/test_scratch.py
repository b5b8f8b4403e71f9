import subprocess
import sys

import pytest

from loadtests.scratch import PREFIX, Scratch, sweep

OWNER = """
import signal, sys
from pathlib import Path
from loadtests.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "log").write_text("something")
print(scratch.path, flush=True)
signal.pause()
"""


@pytest.fixture
def owner(tmp_path):
    """Another process with a folder of its own; yields the process and the folder."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_it_is_gone_once_removed(tmp_path):
    scratch = Scratch(tmp_path)
    (scratch.path / "file").write_text("x")
    scratch.remove()
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_stays(owner, tmp_path):
    _, folder = owner
    assert sweep(tmp_path) == []
    assert (folder / "log").exists()


def test_the_folder_of_a_killed_process_goes_with_the_next_start(owner, tmp_path):
    process, folder = owner
    process.kill()
    process.wait()
    assert folder.exists()
    scratch = Scratch(tmp_path)
    assert list(tmp_path.iterdir()) == [scratch.path]
    scratch.remove()


def test_folders_that_are_not_ours_stay(tmp_path):
    (tmp_path / f"{PREFIX}somebody").mkdir()
    (tmp_path / "elsewhere").mkdir()
    scratch = Scratch(tmp_path / "elsewhere")
    (tmp_path / f"{PREFIX}link").symlink_to(scratch.path)
    scratch.remove()
    assert sweep(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {f"{PREFIX}somebody", f"{PREFIX}link", "elsewhere"}
