"""Compiled by the provider, where this ONNX Runtime has it."""

from workers.accelerate.techniques import openvino


def test_it_needs_the_provider_and_is_served_by_it(job, tmp_path):
    without = job._replace(machine=job.machine._replace(providers=frozenset({"CPUExecutionProvider"})))
    assert "no OpenVINOExecutionProvider (it has CPUExecutionProvider): install onnxruntime-" in openvino.available(
        without
    )
    there = job._replace(machine=job.machine._replace(providers=frozenset({"OpenVINOExecutionProvider"})))
    assert openvino.available(there) is None
    built = openvino.build(there, tmp_path / "small.openvino")
    assert built.build.provider == "openvino"
    assert built.path.read_bytes() == job.source.graph.read_bytes()
