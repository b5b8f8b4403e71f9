"""The pool: every place is answered, faults end all, and a killed parent leaves nobody behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from loadtests.simulator.spread import spread

POOL = """
import time
from loadtests.simulator.spread import spread
from tests.loadtests.simulator.test_spread import announce
if __name__ == "__main__":
    list(spread(announce, [0, 1], 2))
"""


def twice(number: int) -> int:
    return 2 * number


def fail(number: int) -> int:
    raise ValueError(f"number {number}")


def announce(number: int) -> None:
    os.write(1, b"%d\n" % os.getpid())
    time.sleep(60)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_has_its_place(processes):
    assert dict(spread(twice, [5, 6, 7], processes)) == {0: 10, 1: 12, 2: 14}


def test_a_fault_ends_all():
    with pytest.raises(ValueError, match="number"):
        list(spread(fail, [1, 2], 2))


@pytest.mark.slow
def test_a_killed_parent_leaves_no_process_computing_for_nobody():
    parent = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for child in children:
        while alive(child):  # the test's own time limit ends this
            time.sleep(0.05)
    parent.stdout.close()


def alive(pid: int) -> bool:
    """Whether it runs: a zombie, whose parent here may never collect it, does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
