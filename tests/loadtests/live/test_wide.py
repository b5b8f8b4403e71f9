"""The bench's model is a real one: a worker takes its manifest, ONNX Runtime its graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from loadtests.live import wide
from workers.engines.onnx import OnnxEngine
from workers.manifest import load


def test_a_worker_takes_the_manifest_and_runs_the_graph(tmp_path: Path) -> None:
    path = wide.build(tmp_path, width=8, layers=2)
    manifest = load(path)
    (variant,) = manifest.variants
    assert (manifest.model, variant.max_batch) == (wide.MODEL, wide.MAX_BATCH)
    engine = OnnxEngine(tmp_path / variant.file)
    features = np.random.default_rng(1).standard_normal((5, wide.FEATURES), np.float32)
    scores = engine.run({"features": features})["scores"]
    assert scores.shape == (5, 2)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(engine.run({"features": features[2:3]})["scores"][0], scores[2], rtol=1e-4)


def test_it_is_built_once_and_again_for_other_sizes(tmp_path: Path) -> None:
    path = wide.build(tmp_path, width=8, layers=1)
    first = load(path).variants[0].sha256
    (tmp_path / "wide-8x1.onnx").touch()
    stamp = path.stat().st_mtime_ns
    assert wide.build(tmp_path, width=8, layers=1).stat().st_mtime_ns == stamp
    wide.build(tmp_path, width=16, layers=1)
    assert load(path).variants[0].sha256 != first


def test_a_request_is_one_row_of_features_and_the_same_for_the_same_seed() -> None:
    (tensor,) = json.loads(wide.body(3))["inputs"]
    assert tensor["shape"] == [1, wide.FEATURES]
    assert len(tensor["data"]) == wide.FEATURES
    assert wide.body(3) == wide.body(3) != wide.body(4)
