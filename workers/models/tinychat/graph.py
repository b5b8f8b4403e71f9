"""The decoder graph of a Llama-shaped model for the slot engine, written node by node from its weights.

Linear layers run over the step's real tokens only, of all slots together; attention runs per slot, over the slot's
cached keys and values plus the step's own. So prefill and decode share a batch at the price of what they need.
The contract with the host stands in `workers/engines/slots.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from workers.models.writer import FUSED, Writer, floats, longs

OPSET = 20
"""Everything used exists there; later opsets bring nothing this graph needs."""
EPSILON = 1e-5
QUANTIZED_BLOCK = 64
"""Weights that share a scale: divides every matrix here; 32 is no more accurate and costs 6 % in size."""
INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy level that multiplies in 8-bit integers."""


class Shape(msgspec.Struct, frozen=True):
    """The size of a Llama-shaped model. Keys and values have fewer heads than queries, so the cache stays small."""

    vocabulary: int = 2048
    width: int = 192
    layers: int = 4
    heads: int = 6
    cached_heads: int = 2
    hidden: int = 448
    context: int = 512
    theta: float = 10_000.0

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def cached_width(self) -> int:
        return self.cached_heads * self.head_width


def rotations(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine tables [context, head_width / 2] of the rotary position embedding (arXiv:2104.09864)."""
    half = shape.head_width // 2
    angles = np.outer(np.arange(shape.context), shape.theta ** (-np.arange(half) / half))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def quantize(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round [in, out] weights to symmetric int8, one scale per `QUANTIZED_BLOCK` inputs of an output.

    Returns the layout of MatMulNBits: codes [out, blocks, QUANTIZED_BLOCK] around 128, and scales [out, blocks].
    """
    blocks = matrix.T.reshape(matrix.shape[1], -1, QUANTIZED_BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=2) / 127, 1e-8).astype(np.float32)
    codes = np.rint(blocks / scales[..., None]) + 128
    return codes.astype(np.uint8), scales


class _Float:
    """Weights as they are."""

    def __init__(self, g: Writer, weights: Mapping[str, np.ndarray]) -> None:
        self._g, self._weights = g, weights

    def linear(self, x: str, weight: str, output: str) -> str:
        return self._g.add("MatMul", [x, self._g.put(weight, self._weights[weight])], output)

    def embedding(self, tokens: str, output: str) -> str:
        return self._g.add("Gather", [self._g.put("embedding", self._weights["embedding"]), tokens], output)

    def head(self, x: str, output: str) -> str:
        """ONNX Runtime folds the transpose when it loads the graph; the file holds the table once."""
        return self._g.add("MatMul", [x, self._g.add("Transpose", ["embedding"], "head")], output)


class _Int8:
    """Weights of 8 bits. Activations are rounded row by row, so a sequence's numbers don't depend on its batch, as they
    would with the usual one scale for the whole activation tensor."""

    def __init__(self, g: Writer, weights: Mapping[str, np.ndarray]) -> None:
        self._g, self._weights = g, weights

    def linear(self, x: str, weight: str, output: str) -> str:
        self._put(weight, self._weights[weight])
        return self._multiply(x, weight, self._weights[weight].shape, output)

    def embedding(self, tokens: str, output: str) -> str:
        table = self._weights["embedding"]
        self._put("embedding", table.T)
        codes = self._g.add(
            "Cast", [self._g.add("Gather", ["embedding", tokens], "codes")], "coded", to=TensorProto.FLOAT
        )
        centred = self._g.add("Sub", [codes, self._g.scalar("middle", 128)], "centred")
        scales = self._g.add("Gather", ["embedding.scales", tokens], "code_scales")
        scales = self._g.add("Unsqueeze", [scales, self._g.integers("last_axis", [-1])], "block_scales")
        return self._g.add("Reshape", [self._g.add("Mul", [centred, scales], "scaled"), "flat"], output)

    def head(self, x: str, output: str) -> str:
        return self._multiply(x, "embedding", self._weights["embedding"].T.shape, output)

    def _put(self, name: str, matrix: np.ndarray) -> None:
        codes, scales = quantize(matrix)
        self._g.put(name, codes)
        self._g.put(f"{name}.scales", scales)

    def _multiply(self, x: str, weight: str, size: tuple[int, ...], output: str) -> str:
        return self._g.add(
            "MatMulNBits",
            [x, weight, f"{weight}.scales"],
            output,
            FUSED,
            K=size[0],
            N=size[1],
            bits=8,
            block_size=QUANTIZED_BLOCK,
            accuracy_level=INT8_ACTIVATIONS,
        )


PRECISIONS: dict[str, type[_Float | _Int8]] = {"fp32": _Float, "int8": _Int8}


def build(shape: Shape, weights: Mapping[str, np.ndarray], precision: str = "fp32") -> onnx.ModelProto:
    """The graph in one of `PRECISIONS`.

    `weights` holds `embedding` and `norm`, and for each layer L: `L.attention_norm`, `L.qkv`, `L.out`, `L.mlp_norm`,
    `L.gate_up`, `L.down`. Matrices are [in, out]; the output head is the embedding transposed.
    """
    g = Writer()
    store = PRECISIONS[precision](g, weights)
    cosine, sine = rotations(shape)
    g.put("cosine", cosine)
    g.put("sine", sine)
    g.scalar("scale", 1 / math.sqrt(shape.head_width))
    g.integers("widths", [shape.width + shape.cached_width, shape.cached_width])
    g.integers("qk_widths", [shape.width, shape.cached_width])
    g.integers("halves", [shape.hidden, shape.hidden])
    g.integers("flat", [-1, shape.width])
    g.integers("leading", [0])
    group = shape.heads // shape.cached_heads
    # [slots, chunk] rows of queries, split by cached head: each cached head serves `group` query heads.
    g.integers("q_shape", [0, -1, shape.cached_heads, group, shape.head_width])
    g.integers("q_rows", [0, shape.cached_heads, -1, shape.head_width])
    g.integers("kv_shape", [0, -1, shape.cached_heads, shape.head_width])
    g.integers("q_split", [0, shape.cached_heads, group, -1, shape.head_width])
    _spans(g)

    x = store.embedding("tokens", "embedded")
    normed = _norm(g, x, g.put("0.attention_norm", weights["0.attention_norm"]), "0.attended_in")
    for layer in range(shape.layers):
        attended = _attention(g, shape, layer, normed, store)
        x, normed = _add_norm(g, x, attended, g.put(f"{layer}.mlp_norm", weights[f"{layer}.mlp_norm"]), f"{layer}.mlp")
        after = f"{layer + 1}.attention_norm" if layer + 1 < shape.layers else "norm"
        x, normed = _add_norm(g, x, _mlp(g, layer, normed, store), g.put(after, weights[after]), f"{layer}.end")
    final = g.add("Gather", [normed, "last"], "final")
    store.head(final, "logits")
    for kind in ("key", "value"):
        g.add("Concat", [f"{layer}.new_{kind}" for layer in range(shape.layers)], f"new_{kind}s", axis=1)
    return _model(g, shape)


def _spans(g: Writer) -> None:
    """Split points between cached and new positions: [cached length, chunk length], read off the mask and index."""
    g.add("Shape", ["rows"], "chunk", start=1, end=2)
    g.add("Shape", ["mask"], "columns", start=3, end=4)
    g.add("Sub", ["columns", "chunk"], "cached")
    g.add("Concat", ["cached", "chunk"], "spans", axis=0)


def _norm(g: Writer, x: str, weight: str, output: str) -> str:
    return g.add("SimplifiedLayerNormalization", [x, weight], output, axis=-1, epsilon=EPSILON)


def _add_norm(g: Writer, x: str, added: str, weight: str, output: str) -> tuple[str, str]:
    """`x + added`, and its norm. The runtime's kernel for both in one is slower on a CPU."""
    total = g.add("Add", [x, added], f"{output}.sum")
    return total, _norm(g, total, weight, f"{output}.normed")


def _attention(g: Writer, shape: Shape, layer: int, x: str, store: _Float | _Int8) -> str:
    def name(part: str) -> str:
        return f"{layer}.{part}"

    qkv = store.linear(x, name("qkv"), name("projected"))
    g.add_many("Split", [qkv, "widths"], [name("qk"), name("new_value")], axis=-1)
    batched = g.add("Unsqueeze", [name("qk"), "leading"], name("qk_batched"))
    turned = g.add(
        "RotaryEmbedding",
        [batched, "positions", "cosine", "sine"],
        name("qk_turned"),
        FUSED,
        num_heads=shape.heads + shape.cached_heads,
        rotary_embedding_dim=shape.head_width,
    )
    flat = g.add("Squeeze", [turned, "leading"], name("qk_flat"))
    g.add_many("Split", [flat, "qk_widths"], [name("query"), name("new_key")], axis=-1)

    # From tokens to [slots, chunk] rows. Padding rows repeat token 0; nothing reads what comes of them.
    q = g.add("Gather", [name("query"), "rows"], name("q_rows"))
    q = g.add("Reshape", [q, "q_shape"], name("q_heads"))
    q = g.add("Transpose", [q], name("q_grouped"), perm=[0, 2, 3, 1, 4])
    q = g.add("Reshape", [q, "q_rows"], name("q"))
    k = g.add("Reshape", [g.add("Gather", [name("new_key"), "rows"], name("k_rows")), "kv_shape"], name("k_heads"))
    k = g.add("Transpose", [k], name("k"), perm=[0, 2, 3, 1])
    v = g.add("Reshape", [g.add("Gather", [name("new_value"), "rows"], name("v_rows")), "kv_shape"], name("v_heads"))
    v = g.add("Transpose", [v], name("v"), perm=[0, 2, 1, 3])

    q = g.add("Mul", [q, "scale"], name("q_scaled"))
    old = g.add("MatMul", [q, f"keys_{layer}"], name("old_scores"))
    new = g.add("MatMul", [q, k], name("new_scores"))
    scores = g.add("Concat", [old, new], name("scores"), axis=-1)
    scores = g.add("Add", [scores, "mask"], name("masked"))
    shares = g.add("Softmax", [scores], name("shares"), axis=-1)
    g.add_many("Split", [shares, "spans"], [name("old_shares"), name("new_shares")], axis=-1)
    mixed = g.add(
        "Add",
        [
            g.add("MatMul", [name("old_shares"), f"values_{layer}"], name("old_mixed")),
            g.add("MatMul", [name("new_shares"), v], name("new_mixed")),
        ],
        name("mixed"),
    )
    mixed = g.add("Reshape", [mixed, "q_split"], name("mixed_heads"))
    mixed = g.add("Transpose", [mixed], name("mixed_rows"), perm=[0, 3, 1, 2, 4])
    mixed = g.add("Reshape", [mixed, "flat"], name("mixed_flat"))
    mixed = g.add("Gather", [mixed, "cells"], name("mixed_tokens"))
    return store.linear(mixed, name("out"), name("attended"))


def _mlp(g: Writer, layer: int, x: str, store: _Float | _Int8) -> str:
    def name(part: str) -> str:
        return f"{layer}.{part}"

    both = store.linear(x, name("gate_up"), name("gated"))
    g.add_many("Split", [both, "halves"], [name("gate"), name("up")], axis=-1)
    swish = g.add("QuickGelu", [name("gate")], name("swish"), FUSED, alpha=1.0)
    product = g.add("Mul", [swish, name("up")], name("product"))
    return store.linear(product, name("down"), name("fed"))


def _model(g: Writer, shape: Shape) -> onnx.ModelProto:
    heads, width = shape.cached_heads, shape.head_width
    inputs = [
        longs("tokens", "tokens"),
        longs("positions", 1, "tokens"),
        longs("rows", "slots", "chunk"),
        longs("cells", "tokens"),
        longs("last", "answers"),
        floats("mask", "slots", 1, "queries", "columns"),
    ]
    for layer in range(shape.layers):
        inputs.append(floats(f"keys_{layer}", "slots", heads, width, "cached"))
        inputs.append(floats(f"values_{layer}", "slots", heads, "cached", width))
    outputs = [
        floats("logits", "answers", shape.vocabulary),
        floats("new_keys", "tokens", shape.layers * shape.cached_width),
        floats("new_values", "tokens", shape.layers * shape.cached_width),
    ]
    model = g.model("decoder", inputs, outputs, OPSET, ir_version=10)
    helper.set_model_props(model, {"shape": msgspec.json.encode(shape).decode()})
    return model
