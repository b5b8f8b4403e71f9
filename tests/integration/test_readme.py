"""Every command and every Python example of README.md is run; one that no rule here knows fails."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.processes import Child, isochrone
from tests.integration.stage import Stage, chat

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ELSEWHERE = {
    "make demo": "test_demo.py runs what this target runs",
    "make test": "is what runs this test",
    "make registry": "every other test starts the same server through the same function",
    "docker compose up --build": "test_deploy.py checks the file; containers need a Docker daemon",
    "isochrone demo --once --requests 32": "test_demo.py runs it with --json",
    "isochrone accelerate workers/models/digits/digits.fp32.onnx --out build/digits"
    " --variants int8_dynamic,int8_static --report": "its test_cli.py runs a smaller one",
    "isochrone simulate headline --policies isochrone,prequal,nearest --seeds 2": "its test_cli.py runs a small one",
}
STARTS = ("isochrone gateway", "isochrone worker", ".venv/bin/python -m loadtests.live.worker")
"""Commands that serve until they are ended."""


SHOWN = {
    "curl -i": "HTTP/1.1 200",
    "curl -s": '"tinychat"',
    "isochrone nodes --control": "us-b",
    "isochrone nodes --signals": "runway",
    "isochrone explain tinychat": "asia-b",
    "isochrone explain tinychat --shadow": "This route has no shadow",
    "isochrone explain readme-1": "readme-1",
    "isochrone keys new client": "hash:",
    "isochrone keys new worker": "public_key:",
    "isochrone load": "tinychat",
}
"""What a command's output must contain."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def words(line: str) -> list[str]:
    """The command as this installation runs it."""
    name, *arguments = shlex.split(line)
    if name == ".venv/bin/python":
        name = sys.executable
    return isochrone(*arguments) if name == "isochrone" else [name, *arguments]


def test_readme_has_the_commands_a_reader_needs():
    text = "\n".join(COMMANDS)
    for needed in (
        "make demo",
        "make test",
        "curl",
        "worker serve",
        "worker attach",
        "nodes",
        "drain",
        "check",
        "explain",
    ):
        assert needed in text


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line):
    dry = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert dry.returncode == 0, dry.stderr
    assert {"make demo": "isochrone demo", "make test": "pytest", "make registry": "--port 6379"}[line] in dry.stdout


@pytest.mark.parametrize("line", [c for c in COMMANDS if c not in ELSEWHERE and not c.startswith(STARTS)])
def test_command_does_what_it_says(line, gateway, tmp_path):
    if "REQUEST_ID" in line:
        chat(gateway, model="tinychat", headers={"x_request_id": "readme-1"})
    line = line.replace("REQUEST_ID", "readme-1").replace("WORKER_ID", "us-a")
    line = line.replace("http://127.0.0.1:8080", gateway.url).replace("gateway.yaml", str(ROOT / "gateway.yaml"))
    if re.match(r"isochrone (nodes|drain|explain)", line):
        line += f" --control {gateway.control}"
    result = subprocess.run(words(line), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if line.startswith("isochrone drain") and "--off" not in line:
        subprocess.run(words(f"{line} --off"), check=True, capture_output=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    for beginning, text in SHOWN.items():
        if line.startswith(beginning):
            assert text in result.stdout


@pytest.fixture(scope="module")
def scene():
    with Stage() as made:
        yield made


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith(STARTS)])
def test_server_starts_and_says_ready(line, scene):
    engine = scene.emulate("engine", registered=False, model="llama") if "attach" in line else None
    if engine is not None:
        line = line.replace("http://127.0.0.1:8000", engine.url)
    line = line.replace("redis://127.0.0.1:6379/0", scene.redis)
    line = re.sub(r"--(grpc-)?port [89]00[01]", r"--\1port 0", line)
    if line.startswith("isochrone gateway"):
        line += " --port 0 --control-port 0"
    child = Child("readme", words(line), scene.directory)
    try:
        assert child.wait_ready(60).startswith("ready http://")
    finally:
        child.end()
        if engine is not None:
            engine.child.end()
            scene.children.remove(engine.child)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_example_runs(code, gateway):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("http://127.0.0.1:8080", gateway.url), "README.md", "exec"), {})
    assert printed.getvalue().strip()


def test_yaml_example_is_a_valid_configuration(tmp_path):
    (example,) = blocks("yaml")
    path = tmp_path / "example.yaml"
    path.write_text(example)
    result = subprocess.run(isochrone("check", str(path)), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_that_are_mentioned_exist():
    for name in re.findall(r"`((?:[\w-]+/)*[\w.-]+\.(?:py|yaml|toml|lock))`", README):
        assert (ROOT / name).exists(), name
