"""Every example of docs/examples, as a reader runs it, against a gateway and real workers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/examples"
SHOWN = {
    "image_recognition": r"(18|19|20) of 20 right, by \S+ \((fp32|int8)\)",
    "fraud_scoring": r"18 of 20 right above a threshold of 4.8%; being wrong cost 10",
    "recommendation": r"near that: Starship of Fools, A Signal from Europa",
    "sentence_embeddings": r"log in  ->  Reset your password",
    "text_generation": r"The capital of France is Paris",
    "decisions": r"team: billing .*\ntone: (1\.[5-9]|2\.0), ",
    "control_loop": r"40 ticks of 50 ms: (\d+) decided within 30 ms, (\d+) missed",
}
"""Part of what each prints."""
OUTCOMES = {"right", "wrong", "late", "deadline_infeasible", "deadline_exceeded"}
"""Of a control loop on a busy machine: any of these, and nothing else."""


def test_every_example_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_does_what_it_says(name, gateway):
    ticks = ["40"] if name == "control_loop" else []
    command = [sys.executable, str(FOLDER / f"{name}.py"), gateway.url, *ticks]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.search(SHOWN[name], result.stdout)
    assert found, result.stdout
    if name == "control_loop":
        outcomes = ast.literal_eval(result.stdout.rpartition("outcomes: ")[2])
        assert outcomes.keys() <= OUTCOMES
        assert sum(map(int, found.groups())) == sum(outcomes.values()) == 40
        assert int(found[1]) == outcomes.get("right", 0) + outcomes.get("wrong", 0)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_says_whose_its_data_are(name):
    said = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert re.search(r"CC BY 4\.0|Apache-2\.0", said)
    assert f"`{name}.py`" in (FOLDER / "README.md").read_text()
