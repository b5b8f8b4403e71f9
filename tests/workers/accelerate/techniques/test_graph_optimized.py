"""The optimised graph is kept, and computes the same."""

import numpy as np

from workers.accelerate.techniques import graph_optimized
from workers.engines.onnx import OnnxEngine


def test_the_optimised_graph_answers_the_same(job, tmp_path):
    assert graph_optimized.available(job) is None
    built = graph_optimized.build(job, tmp_path / "small.graph_optimized")
    feeds = dict(job.held.feeds)
    found, reference = (OnnxEngine(path).run(feeds)["probabilities"] for path in (built.path, job.source.graph))
    np.testing.assert_allclose(found, reference, atol=1e-5)
