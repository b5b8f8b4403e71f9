"""Int8 weights quarter the file and keep nearly all answers."""

import numpy as np

from workers.accelerate.techniques import int8_dynamic
from workers.engines.onnx import OnnxEngine


def test_it_is_smaller_and_answers_alike(job, tmp_path):
    assert int8_dynamic.available(job) is None
    built = int8_dynamic.build(job, tmp_path / "small.int8_dynamic")
    assert built.path.stat().st_size < 0.55 * job.source.graph.stat().st_size
    found, reference = (
        OnnxEngine(path).run(dict(job.held.feeds))["probabilities"].argmax(axis=1)
        for path in (built.path, job.source.graph)
    )
    assert np.mean(found == reference) > 0.95
