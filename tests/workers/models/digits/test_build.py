"""The committed digits model, measured again on the held-out images."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from workers.accelerate import evaluate
from workers.accelerate.data import Data
from workers.engines.onnx import OnnxEngine
from workers.manifest import bundled, read
from workers.models.digits import build

MANIFEST = read(bundled("digits"))
FOLDER = bundled("digits").parent


@pytest.fixture(scope="module")
def data() -> build.Split:
    return build.split()


def answers(variant: str, pixels: np.ndarray) -> np.ndarray:
    engine = OnnxEngine(FOLDER / MANIFEST.variant(variant).file)
    return engine.run({"pixels": pixels})["probabilities"].argmax(axis=1)


def test_the_split_is_fixed_fair_and_disjoint(data: build.Split):
    assert len(data.held_labels) == MANIFEST.eval.n == 719
    assert len(data.train_labels) == 1078
    counts = np.bincount(data.held_labels)
    assert counts.min() >= 68
    assert counts.max() <= 75
    held = {row.tobytes() for row in data.held_pixels}
    assert not any(row.tobytes() in held for row in data.train_pixels)
    np.testing.assert_array_equal(data.held_pixels, build.split().held_pixels)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_accuracy_is_what_the_manifest_says(variant: str, data: build.Split):
    accuracy = float((answers(variant, data.held_pixels) == data.held_labels).mean())
    assert accuracy >= 0.98
    assert accuracy == pytest.approx(MANIFEST.variant(variant).score, abs=2 / 719)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_probabilities_are_off_by_what_the_manifest_says(variant: str, data: build.Split):
    told = MANIFEST.variant(variant)
    held = Data({"pixels": data.held_pixels}, data.held_labels)
    paper = evaluate.classified(OnnxEngine(FOLDER / told.file), held, "probabilities")
    assert paper.calibration_error == pytest.approx(told.calibration_error, abs=0.005)
    assert MANIFEST.classes[7] == "7"


def test_int8_agrees_with_the_reference(data: build.Split):
    agreement = float((answers("int8", data.held_pixels) == answers("fp32", data.held_pixels)).mean())
    assert agreement >= 0.99
    assert agreement == pytest.approx(MANIFEST.variant("int8").agreement, abs=2 / 719)


def test_int8_is_smaller_and_was_measured_faster():
    fp32, int8 = MANIFEST.variants
    assert int8.bytes < fp32.bytes / 3
    assert int8.latency_ms["8"].p50 < fp32.latency_ms["8"].p50


def test_the_samples_are_held_out_images(data: build.Split):
    with np.load(FOLDER / "samples.npz") as samples:
        pixels, labels = samples["pixels"], samples["labels"]
    assert pixels.shape == (build.SAMPLES, 64)
    np.testing.assert_array_equal(pixels, data.held_pixels[: build.SAMPLES])
    right = answers("int8", pixels.astype(np.float32)) == labels
    assert right.mean() >= 0.9


def test_the_graph_computes_what_its_weights_say():
    """A network that only looks at one pixel: its convolutions pass it on, its layers pick it out."""
    first, second = build.CHANNELS
    weights = {
        "conv1.weight": np.zeros((first, 1, 3, 3), np.float32),
        "conv1.bias": np.zeros(first, np.float32),
        "conv2.weight": np.zeros((second, first, 3, 3), np.float32),
        "conv2.bias": np.zeros(second, np.float32),
        "hidden.weight": np.zeros((build.HIDDEN, second * 16), np.float32),
        "hidden.bias": np.zeros(build.HIDDEN, np.float32),
        "output.weight": np.zeros((10, build.HIDDEN), np.float32),
        "output.bias": np.zeros(10, np.float32),
    }
    weights["conv1.weight"][0, 0, 1, 1] = weights["conv2.weight"][0, 0, 1, 1] = 1
    weights["hidden.weight"][0, 5] = 1  # the pooled cell in row 1, column 1: pixels in rows and columns 2 and 3
    weights["output.weight"][7, 0] = 2
    session = ReferenceEvaluator(build.graph(weights))
    pixels = np.zeros((2, 8, 8), np.float32)
    pixels[1, 2, 3] = 8
    (found,) = session.run(None, {"pixels": pixels.reshape(2, 64)})
    np.testing.assert_allclose(found[0], 0.1, atol=1e-6)
    np.testing.assert_allclose(found[1, 7], np.e / (np.e + 9), atol=1e-6)


def test_the_data_beside_the_spec_are_the_splits(data: build.Split):
    """Pixels are whole numbers, so bytes lose nothing."""
    with np.load(FOLDER / "held.npz") as held, np.load(FOLDER / "unlabelled.npz") as unlabelled:
        np.testing.assert_array_equal(held["pixels"], data.held_pixels)
        np.testing.assert_array_equal(held["labels"], data.held_labels)
        np.testing.assert_array_equal(unlabelled["pixels"], data.train_pixels)
        assert unlabelled.files == ["pixels"]
