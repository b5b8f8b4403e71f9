"""The reference is the source, byte by byte."""

from workers.accelerate.techniques import fp32


def test_the_reference_is_the_source(job, tmp_path):
    assert fp32.available(job) is None
    built = fp32.build(job, tmp_path / "small.fp32")
    assert built.path.name == "small.fp32.onnx"
    assert built.path.read_bytes() == job.source.graph.read_bytes()
