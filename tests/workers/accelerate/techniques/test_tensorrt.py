"""Compiled by the provider, where this ONNX Runtime has it."""

from workers.accelerate.techniques import tensorrt


def test_it_needs_the_provider_and_is_served_by_it(job, tmp_path):
    without = job._replace(machine=job.machine._replace(providers=frozenset({"CPUExecutionProvider"})))
    assert "no TensorrtExecutionProvider (it has CPUExecutionProvider): install onnxruntime-" in tensorrt.available(
        without
    )
    there = job._replace(machine=job.machine._replace(providers=frozenset({"TensorrtExecutionProvider"})))
    assert tensorrt.available(there) is None
    built = tensorrt.build(there, tmp_path / "small.tensorrt")
    assert built.build.provider == "tensorrt"
    assert built.path.read_bytes() == job.source.graph.read_bytes()
