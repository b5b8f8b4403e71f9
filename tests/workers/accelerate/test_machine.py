"""What this machine has, and how what it lacks is said."""

from workers.accelerate import machine
from workers.accelerate.machine import Machine


def test_this_machine_has_a_processor_and_onnx():
    found = machine.found()
    assert "onnx" in found.installed
    assert "CPUExecutionProvider" in found.providers
    assert found.lacks("onnx") is None
    assert machine.cpu()
    assert machine.memory_bytes() > 1e8


def test_what_is_missing_is_named_with_its_remedy():
    bare = Machine(frozenset({"onnx"}), frozenset())
    assert bare.lacks("onnx", "torch", "onnxscript") == (
        "torch, onnxscript not installed: pip install 'isochrone[accelerate-torch]'"
    )
    assert bare.lacks("onnx", "onnx_ir") == "onnx_ir not installed: pip install 'isochrone[accelerate]'"
    assert bare.device == "cpu"
    assert bare._replace(capability=(9, 0)).device == "cuda"


def test_versions_of_what_is_installed():
    assert {"python", "numpy", "onnx"} <= machine.software().keys()
