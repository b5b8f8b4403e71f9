"""The decoder graph: quantization, and logits against a plain forward pass."""

import numpy as np
import onnxruntime as ort
import pytest

from tests.workers.engines import plain_llama
from workers.models.tinychat import graph, train

SHAPE = graph.Shape(vocabulary=96, width=64, layers=2, heads=4, cached_heads=2, hidden=128, context=32)


def test_quantized_weights_are_within_half_a_step():
    matrix = np.random.default_rng(0).normal(0, 1, (128, 10)).astype(np.float32)
    matrix[:64, 3] = 0
    codes, scales = graph.quantize(matrix)
    assert codes.shape == (10, 2, graph.QUANTIZED_BLOCK)
    assert codes.dtype == np.uint8
    restored = (codes.astype(np.float32) - 128) * scales[..., None]
    error = np.abs(restored.reshape(10, 128).T - matrix).reshape(2, 64, 10)
    assert np.all(error <= scales.T[:, None, :] / 2 + 1e-6)


def fed_whole(ids: list[int]) -> dict[str, np.ndarray]:
    """The inputs that read one prompt in one step, with four cached positions that are all hidden."""
    n, head, old = len(ids), SHAPE.head_width, 4
    mask = np.concatenate([np.full((n, old), -np.inf), np.triu(np.full((n, n), -np.inf), 1)], axis=1)
    feeds = {
        "tokens": np.array(ids),
        "positions": np.arange(n)[None],
        "rows": np.arange(n)[None],
        "cells": np.arange(n),
        "last": np.arange(n),
        "mask": np.tile(mask.astype(np.float32), (1, 1, SHAPE.heads // SHAPE.cached_heads, 1)),
    }
    for layer in range(SHAPE.layers):
        feeds[f"keys_{layer}"] = np.ones((1, SHAPE.cached_heads, head, old), np.float32)
        feeds[f"values_{layer}"] = np.ones((1, SHAPE.cached_heads, old, head), np.float32)
    return feeds


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("int8", 0.05)])
def test_logits_are_those_of_a_plain_forward_pass(precision: str, tolerance: float):
    weights = train.fresh_weights(SHAPE, 1)
    raw = graph.build(SHAPE, weights, precision).SerializeToString()
    session = ort.InferenceSession(raw, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(2).integers(0, SHAPE.vocabulary, 20).tolist()
    (found,) = session.run(["logits"], fed_whole(ids))
    expected = plain_llama.logits(weights, SHAPE, ids)
    assert (found - expected).std() < tolerance * expected.std()


def test_int8_is_a_quarter_of_the_size():
    weights = train.fresh_weights(graph.Shape(), 0)
    full, small = (len(graph.build(graph.Shape(), weights, p).SerializeToString()) for p in ("fp32", "int8"))
    assert small < full / 3.5
    assert sum(w.size for w in weights.values()) < 2e6


def test_the_rotation_turns_by_the_position():
    cosine, sine = graph.rotations(SHAPE)
    assert cosine.shape == sine.shape == (SHAPE.context, SHAPE.head_width // 2)
    np.testing.assert_allclose(cosine[:, 0], np.cos(np.arange(SHAPE.context)), atol=1e-6)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, atol=1e-6)
