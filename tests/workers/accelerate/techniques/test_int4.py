"""Int4 weights in blocks."""

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from workers.accelerate.techniques import int4
from workers.engines.onnx import OnnxEngine


def test_it_is_smaller_and_answers_alike(job, tmp_path):
    assert int4.available(job) is None
    built = int4.build(job, tmp_path / "small.int4")
    assert built.path.stat().st_size < 0.6 * job.source.graph.stat().st_size
    found, reference = (
        OnnxEngine(path).run(dict(job.held.feeds))["probabilities"].argmax(axis=1)
        for path in (built.path, job.source.graph)
    )
    assert np.mean(found == reference) > 0.8


def test_a_graph_without_plain_products_is_refused(tmp_path):
    from workers.manifest import packaged

    with pytest.raises(ValueError, match="no MatMul with constant weights: Gemm and Conv"):
        int4.quantize(packaged("digits").parent / "digits.fp32.onnx", tmp_path / "x.onnx")


def test_on_a_gpu_it_is_torchs(job):
    machine = job.machine._replace(capability=(9, 0), installed=frozenset({"torch", "torchao"}))
    assert "torch module" in int4.available(job._replace(machine=machine))
