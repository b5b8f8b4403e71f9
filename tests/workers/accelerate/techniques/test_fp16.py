"""Half precision halves the file and keeps the answers."""

import numpy as np

from workers.accelerate.techniques import fp16
from workers.engines.onnx import OnnxEngine


def test_it_is_smaller_and_answers_alike(job, tmp_path):
    assert fp16.available(job) is None
    built = fp16.build(job, tmp_path / "small.fp16")
    assert built.path.stat().st_size < 0.75 * job.source.graph.stat().st_size
    found, reference = (
        OnnxEngine(path).run(dict(job.held.feeds))["probabilities"].argmax(axis=1)
        for path in (built.path, job.source.graph)
    )
    assert np.mean(found == reference) > 0.99
