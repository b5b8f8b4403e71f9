"""The committed fraud model, measured again on the held-out rows."""

import numpy as np
import pytest
from msgspec.structs import replace
from onnx.reference import ReferenceEvaluator

from workers.accelerate import evaluate
from workers.engines.onnx import OnnxEngine
from workers.manifest import bundled, read
from workers.models.fraud import build

MANIFEST = read(bundled("fraud"))
FOLDER = bundled("fraud").parent


@pytest.fixture(scope="module")
def data() -> build.Split:
    return build.split()


def probabilities(variant: str, rows: np.ndarray) -> np.ndarray:
    return OnnxEngine(FOLDER / MANIFEST.variant(variant).file).run({"features": rows})["probabilities"]


def test_the_split_is_fixed_fair_and_disjoint(data: build.Split):
    assert (len(data.train_labels), len(data.held_labels)) == (341, MANIFEST.eval.n)
    assert data.held_labels.mean() == pytest.approx(data.train_labels.mean(), abs=0.01)
    held = {row.tobytes() for row in data.held_rows}
    assert not any(row.tobytes() in held for row in data.train_rows)
    np.testing.assert_array_equal(data.held_rows, build.split().held_rows)
    assert data.features == MANIFEST.features


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_figures_are_what_the_manifest_says(variant: str, data: build.Split):
    found, told = probabilities(variant, data.held_rows), MANIFEST.variant(variant)
    assert float((found.argmax(axis=1) == data.held_labels).mean()) == pytest.approx(told.score, abs=2 / 228)
    assert told.score > 0.95
    off = evaluate.calibration_error(found, data.held_labels)
    assert off == pytest.approx(told.calibration_error, abs=0.01)


def test_what_is_looked_for_is_the_second_class(data: build.Split):
    """And it is found by rank too: a random malignant row is almost always above a random benign one."""
    scores = probabilities("fp32", data.held_rows)[:, MANIFEST.classes.index("malignant")]
    ill, well = scores[data.held_labels == 1], scores[data.held_labels == 0]
    assert (ill[:, None] > well).mean() > 0.98


def test_int8_is_kept_with_the_verdict_that_it_does_not_pay():
    fp32, int8 = MANIFEST.variants
    assert [each.variant for each in MANIFEST.served()] == ["fp32"]
    assert int8.verdict.by == "fp32"
    assert int8.bytes > fp32.bytes


@pytest.mark.parametrize(("p50", "size", "served"), [(0.5, 900, True), (2.0, 10, True), (2.0, 900, False)])
def test_a_variant_is_refused_when_it_saves_neither_time_nor_space(p50: float, size: int, served: bool):
    reference = replace(MANIFEST.variant("fp32"), bytes=100, latency_ms={"1": build.measure.latency([1e-3])})
    other = replace(reference, variant="int8", bytes=size, latency_ms={"1": build.measure.latency([p50 * 1e-3])})
    assert build.judged(other, reference).verdict.served is served


def test_the_samples_are_held_out_rows(data: build.Split):
    with np.load(FOLDER / "samples.npz") as samples:
        np.testing.assert_array_equal(samples["features"], data.held_rows[: build.SAMPLES])
        np.testing.assert_array_equal(samples["labels"], data.held_labels[: build.SAMPLES])
        assert set(samples["labels"].tolist()) == {0, 1}
    with np.load(FOLDER / "held.npz") as held, np.load(FOLDER / "unlabelled.npz") as unlabelled:
        np.testing.assert_array_equal(held["features"], data.held_rows)
        np.testing.assert_array_equal(unlabelled["features"], data.train_rows)


def test_both_graphs_compute_what_the_weights_say():
    """One column counts, its mean 10 and its scale 2: 14 is two deviations above, times 3, less 1, is 5."""
    mean, scale, weight = np.zeros(30), np.ones(30), np.zeros(30)
    mean[4], scale[4], weight[4] = 10, 2, 3
    weights = build.Weights(mean, scale, weight, -1.0)
    row = np.zeros((1, 30), np.float32)
    row[0, 4] = 14
    for each in (weights, build.folded(weights)):
        (found,) = ReferenceEvaluator(build.graph(each)).run(None, {"features": row})
        np.testing.assert_allclose(found[0, 1], 1 / (1 + np.exp(-5.0)), rtol=1e-5)


def test_the_weights_are_found_again(data: build.Split):
    weights = build.folded(build.train(data.train_rows, data.train_labels))
    (found,) = ReferenceEvaluator(build.graph(weights)).run(None, {"features": data.held_rows[:20]})
    np.testing.assert_allclose(found, probabilities("fp32", data.held_rows[:20]), atol=1e-3)
