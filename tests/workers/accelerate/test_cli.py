"""`isochrone accelerate` as people call it."""

import json

import pytest
from click.testing import CliRunner

from gateway.cli import main


@pytest.fixture
def call(folder):
    def called(*options):
        return CliRunner().invoke(
            main, ["accelerate", str(folder / "small.onnx"), "--out", str(folder / "out"), *options]
        )

    return called


def test_a_table_a_page_and_a_manifest(call, folder):
    """The spec is found beside the source."""
    result = call("--variants", "int8_dynamic,fp8", "--report")
    assert result.exit_code == 0, result.output
    assert "variant" in result.stdout
    assert "int8_dynamic" in result.stdout
    assert "no fp8: no CUDA device" in result.stdout
    assert (folder / "out" / "small.report.html").stat().st_size > 1e6
    assert str(folder / "out" / "small.manifest.json") in result.stdout


def test_a_source_that_is_not_there_is_said_before_its_spec(folder):
    result = CliRunner().invoke(main, ["accelerate", str(folder / "none" / "x.onnx"), "--out", str(folder / "out")])
    assert result.exit_code == 2
    assert "x.onnx: no such file" in result.stderr


def test_json_is_the_manifest(call, folder):
    result = call("--variants", "fp32", "--json", "--price-per-hour", "0.5")
    assert json.loads(result.stdout) == json.loads((folder / "out" / "small.manifest.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variants", "int7"), "no technique 'int7'"),
        (("--spec", "none.yaml"), "none.yaml: cannot be read"),
        (("--price-per-hour", "-1"), "'--price-per-hour'"),
    ],
)
def test_what_cannot_be_used_is_the_users_error(call, options, message):
    result = call(*options)
    assert result.exit_code == 2
    assert message in result.stderr
