import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from loadtests.processes import Child, ChildError, dying_with_parent, end_all, free_ports, isochrone, refuse_taken

SAYS_READY = "import signal; print('hello'); print('ready http://x', flush=True); signal.pause()"
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', 1, flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def start(tmp_path):
    children = []

    def start(code: str, name: str = "child") -> Child:
        children.append(Child(name, [sys.executable, "-c", code], tmp_path))
        return children[-1]

    yield start
    end_all(children)


def test_ready_line_is_returned_and_output_logged(start):
    child = start(SAYS_READY)
    assert child.wait_ready(10) == "ready http://x"
    assert child.alive
    assert child.fate == ""
    assert "running" in repr(child)
    child.end()
    assert not child.alive
    assert child.log.read_text().startswith("hello\n")


def test_a_death_before_ready_is_one_line_with_the_last_words(start):
    child = start("import sys; print('first', flush=True); sys.exit('no such model')", "worker-1")
    with pytest.raises(ChildError) as death:
        child.wait_ready(10)
    assert str(death.value) == "worker-1 ended with exit status 1: no such model"


def test_silence_is_an_error_that_names_the_log(start):
    child = start("import signal; signal.pause()")
    with pytest.raises(ChildError, match=r"not ready after 0 s.*child\.log"):
        child.wait_ready(0.2)


def test_a_stopped_child_still_ends(start):
    child = start(SAYS_READY)
    child.wait_ready(10)
    child.send(signal.SIGSTOP)
    child.end()
    assert child.wait() == -signal.SIGTERM
    assert child.obituary() == "child ended by SIGTERM"


def test_the_last_line_of_one_that_served_is_not_called_its_reason(start):
    child = start("print('ready http://x', flush=True); input(); print('served 5', flush=True)")
    child.wait_ready(10)
    assert child.wait(10) == 1  # no input
    child.end()
    assert child.fate == "ended with exit status 1"
    assert child.obituary().startswith("child ended with exit status 1; its last line was: EOFError")


def test_a_stubborn_child_is_killed(start):
    child = start(STUBBORN)
    child.wait_ready(10)
    child.end(grace=0.2)
    assert child.wait() == -signal.SIGKILL


def test_children_do_not_share_the_terminals_process_group(start):
    child = start(SAYS_READY)
    child.wait_ready(10)
    assert os.getpgid(child.pid) != os.getpgid(0)


def test_a_child_dies_with_a_killed_parent():
    inner = dying_with_parent([sys.executable, "-c", SAYS_READY])
    outer = f"import subprocess, signal; p = subprocess.Popen({inner!r}); print(p.pid, flush=True); signal.pause()"
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "hello\n"
    watch = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    ended, _, _ = select.select([watch], [], [], 5)
    os.close(watch)
    parent.stdout.close()
    assert ended


def test_a_taken_port_is_refused_with_the_option_to_change():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ChildError, match=f"port {port} .*choose another with --port"):
            refuse_taken("127.0.0.1", port, "--port")
    refuse_taken("127.0.0.1", port, "--port")


def test_free_ports_differ_and_can_be_bound():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        refuse_taken("127.0.0.1", port, "--port")


def test_isochrone_is_this_installations():
    assert isochrone("check")[0] == sys.executable
