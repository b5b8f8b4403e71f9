"""A Llama forward pass as the papers write it, in numpy: no cache, no batch, no chunks. The slot engine's oracle."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from workers.models.tinychat.graph import EPSILON, Shape


def read_weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def logits(weights: dict[str, np.ndarray], shape: Shape, ids: list[int]) -> np.ndarray:
    """Logits after every token, [len(ids), vocabulary], in float64."""
    length, width = len(ids), shape.head_width
    angles = np.outer(np.arange(length), shape.theta ** (-2 * np.arange(width // 2) / width))
    cosine, sine = np.cos(angles), np.sin(angles)

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight

    def turn(x):
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)

    x = weights["embedding"].astype(np.float64)[ids]
    hidden = np.triu(np.full((length, length), -np.inf), 1)
    for layer in range(shape.layers):
        w = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith(f"{layer}.")}
        heads = (norm(x, w["attention_norm"]) @ w["qkv"]).reshape(length, -1, width).transpose(1, 0, 2)
        q, k, v = np.split(heads, [shape.heads, shape.heads + shape.cached_heads])
        group = shape.heads // shape.cached_heads
        k, v = turn(k).repeat(group, axis=0), v.repeat(group, axis=0)
        scores = turn(q) @ k.transpose(0, 2, 1) / np.sqrt(width) + hidden
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + (shares @ v).transpose(1, 0, 2).reshape(length, -1) @ w["out"]
        gate, up = np.split(norm(x, w["mlp_norm"]) @ w["gate_up"], 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["down"]
    return norm(x, weights["norm"]) @ weights["embedding"].T


def greedy(weights: dict[str, np.ndarray], shape: Shape, prompt: list[int], tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(logits(weights, shape, ids)[-1].argmax()))
    return ids[len(prompt) :]
