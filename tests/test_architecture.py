"""The shape of the house: tests mirror sources, files stay small, names come from the glossary.

Import rules are import-linter's (pyproject.toml, run by `make check`).
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("policies", "gateway", "workers", "loadtests")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 420
"""About 400: beyond that a file holds two ideas."""
MAX_FUNCTION_LINES = 60
"""A screen."""

UNMIRRORED = {
    # Entry points of one line, run as processes by the integration tests.
    "gateway/__main__.py",
    "workers/__main__.py",
    "loadtests/__main__.py",
}
"""Sources without a test file of their own, with the reason."""

BANNED_WORDS = re.compile(r"(^|_)(manager|handler|helpers?|utils?|common|strategy)(_|$|\.py)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def mirrored(path: Path) -> Path:
    inside = path.relative_to(ROOT)
    name = inside.parent.name if path.name == "__init__.py" else path.stem
    return ROOT / "tests" / inside.parent / f"test_{name}.py"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py"], ids=relative)
def test_every_source_has_its_test(path):
    if relative(path) in UNMIRRORED:
        assert not mirrored(path).exists(), "it has a test now: take it off the list"
    else:
        assert mirrored(path).is_file(), f"write {relative(mirrored(path))}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_are_small_and_named_from_the_glossary(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert not BANNED_WORDS.search(path.name)
    assert not (path.with_suffix("").is_dir() and path.suffix == ".py"), "module and package of one name"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_say_what_they_own_and_functions_fit_on_a_screen(path):
    tree = ast.parse(path.read_text())
    if any(not isinstance(node, ast.Expr) for node in tree.body):
        assert ast.get_docstring(tree), "a module docstring says what it owns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_module_level_mutable_state(path):
    """Upper-case tables are constants by convention; a lower-case empty container is state."""
    for node in ast.parse(path.read_text()).body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict | ast.List | ast.Set):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                assert isinstance(target, ast.Name)
                assert target.id.isupper() or target.id.startswith("_") or target.id == "__all__", target.id
