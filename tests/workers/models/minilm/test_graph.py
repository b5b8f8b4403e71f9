"""The encoder graph against a plain BERT in numpy, on random weights."""

import json
import math
import struct

import numpy as np
import onnxruntime as ort
import pytest

from workers.models.minilm import graph

WORDS, POSITIONS, HIDDEN = 50, 16, 64


def random_weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": matrix(WORDS, graph.WIDTH),
        "embeddings.position_embeddings.weight": matrix(POSITIONS, graph.WIDTH),
        "embeddings.token_type_embeddings.weight": matrix(2, graph.WIDTH),
        "embeddings.LayerNorm.weight": 1 + matrix(graph.WIDTH),
        "embeddings.LayerNorm.bias": matrix(graph.WIDTH),
    }
    for layer in range(graph.LAYERS):
        base = f"encoder.layer.{layer}"
        for part, out, into in (
            ("attention.self.query", graph.WIDTH, graph.WIDTH),
            ("attention.self.key", graph.WIDTH, graph.WIDTH),
            ("attention.self.value", graph.WIDTH, graph.WIDTH),
            ("attention.output.dense", graph.WIDTH, graph.WIDTH),
            ("intermediate.dense", HIDDEN, graph.WIDTH),
            ("output.dense", graph.WIDTH, HIDDEN),
        ):
            weights[f"{base}.{part}.weight"] = matrix(out, into)
            weights[f"{base}.{part}.bias"] = matrix(out)
        for part in ("attention.output", "output"):
            weights[f"{base}.{part}.LayerNorm.weight"] = 1 + matrix(graph.WIDTH)
            weights[f"{base}.{part}.LayerNorm.bias"] = matrix(graph.WIDTH)
    return weights


def plain_bert(w: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """One sentence without padding, as Devlin et al. 2018 describe it, then mean pooling and unit length."""

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + graph.EPSILON)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def split(x):
        return x.reshape(len(ids), graph.HEADS, -1).transpose(1, 0, 2)

    x = w["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(graph.LAYERS):
        base = f"encoder.layer.{layer}"
        q, k, v = (split(linear(x, f"{base}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + linear(mixed, f"{base}.attention.output.dense"), f"{base}.attention.output.LayerNorm")
        grown = linear(x, f"{base}.intermediate.dense")
        bent = grown * 0.5 * (1 + np.vectorize(math.erf)(grown / np.sqrt(2)))
        x = norm(x + linear(bent, f"{base}.output.dense"), f"{base}.output.LayerNorm")
    pooled = x.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


def test_the_graph_equals_a_plain_bert_padding_or_not():
    weights = random_weights(0)
    session = ort.InferenceSession(graph.build(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    sentences = [np.array([1, 7, 9, 2]), np.array([1, 30, 2]), np.arange(10)]
    longest = max(map(len, sentences))
    ids = np.array([np.pad(s, (0, longest - len(s))) for s in sentences])
    mask = np.array([[1] * len(s) + [0] * (longest - len(s)) for s in sentences])
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (found,) = session.run(["embeddings"], feeds)
    np.testing.assert_allclose(found, [plain_bert(weights, s) for s in sentences], atol=2e-6)


def safetensors(header: dict, body: bytes) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def test_safetensors_are_read_by_their_header():
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]},
    }
    tensors = graph.read_safetensors(safetensors(header, struct.pack("<ffq", 1.5, -2, 7)))
    assert tensors["a"].tolist() == [[1.5], [-2.0]]
    assert tensors["b"].tolist() == [7]
    assert list(tensors) == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        b"short",
        safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
        safetensors({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
    ],
)
def test_a_broken_safetensors_file_is_refused(raw: bytes):
    with pytest.raises(ValueError, match="safetensors"):
        graph.read_safetensors(raw)
