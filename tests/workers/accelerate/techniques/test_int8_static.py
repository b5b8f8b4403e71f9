"""Ranges come of the calibration data."""

import numpy as np

from workers.accelerate.techniques import int8_static
from workers.engines.onnx import OnnxEngine


def test_it_is_smaller_and_answers_alike(job, tmp_path):
    assert int8_static.available(job) is None
    built = int8_static.build(job, tmp_path / "small.int8_static")
    assert built.path.stat().st_size < 0.65 * job.source.graph.stat().st_size
    found, reference = (
        OnnxEngine(path).run(dict(job.held.feeds))["probabilities"].argmax(axis=1)
        for path in (built.path, job.source.graph)
    )
    assert np.mean(found == reference) > 0.9


def test_without_calibration_data_it_says_what_to_give(job):
    why = int8_static.available(job._replace(calibration=None))
    assert why is not None
    assert "$.calibration: needs data" in why


def test_calibration_sees_every_item_once(job):
    feeds = int8_static.Feeds({"features": np.arange(70)})
    parts = []
    while (part := feeds.get_next()) is not None:
        parts.append(part["features"])
    assert [len(part) for part in parts] == [32, 32, 6]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(70))
