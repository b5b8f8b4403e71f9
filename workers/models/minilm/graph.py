"""The encoder graph of all-MiniLM-L6-v2, written node by node from its safetensors: BERT, mean pooling, unit length.

Inputs `input_ids`, `attention_mask`, `token_type_ids` [batch, length]; output `embeddings` [batch, 384]. Pooling stands
in the graph, so that one matrix leaves it instead of a vector per token.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from workers.models.writer import Writer, floats, longs

WIDTH = 384
HEADS = 12
LAYERS = 6
EPSILON = 1e-12
OPSET = 20
"""The first with Gelu as one operator."""
SAFETENSORS_TYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}


def read_safetensors(raw: bytes) -> dict[str, np.ndarray]:
    """Read the format (8 bytes of header length, a JSON header, the tensors' bytes): too small to need a package.

    Raises ValueError when the file is cut short or holds a type this model does not have.
    """
    if len(raw) < 8:
        raise ValueError("not a safetensors file: shorter than its own header")
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    body = memoryview(raw)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = SAFETENSORS_TYPES.get(entry["dtype"])
        start, end = entry["data_offsets"]
        if dtype is None or end > len(body):
            raise ValueError(f"safetensors: tensor {name!r} has type {entry['dtype']} or lies beyond the file's end")
        tensors[name] = np.frombuffer(body[start:end], dtype).reshape(entry["shape"])
    return tensors


def build(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The fp32 graph from tensors under their Hugging Face names."""
    g = _Bert(weights)
    g.scalar("scale", 1 / math.sqrt(WIDTH // HEADS))
    g.integers("by_head", [0, 0, HEADS, WIDTH // HEADS])
    g.integers("merged", [0, 0, WIDTH])
    g.integers("thirds", [WIDTH] * 3)
    g.integers("first", [0])
    g.integers("second", [1])
    g.integers("middle", [1, 2])
    g.integers("last", [-1])

    present = g.add("Cast", ["attention_mask"], "present", to=TensorProto.FLOAT)
    absent = g.add("Sub", [present, g.scalar("unit", 1)], "absent")
    g.add("Unsqueeze", [g.add("Mul", [absent, g.scalar("far", 1e9)], "hidden"), "middle"], "mask")
    x = g.embed()
    for index in range(LAYERS):
        x = g.layer(x, index)
    shown = g.add("Mul", [x, g.add("Unsqueeze", [present, "last"], "present_column")], "shown")
    total = g.add("ReduceSum", [shown, "second"], "total", keepdims=0)
    # The mean's divisor would cancel in the normalisation, so the sum is normalised as it is.
    g.add("LpNormalization", [total], "embeddings", axis=-1, p=2)

    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [longs(name, "batch", "length") for name in names]
    return g.model("minilm", inputs, [floats("embeddings", "batch", WIDTH)], OPSET, ir_version=9)


class _Bert(Writer):
    """Writes the pieces that BERT is made of, with the weights of a checkpoint."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self._weights = weights

    def embed(self) -> str:
        """Words, places and sentence kinds, summed and normed."""
        words, places, kinds = (
            self.put(f"{part}_table", self._weights[f"embeddings.{part}_embeddings.weight"])
            for part in ("word", "position", "token_type")
        )
        length = self.add("Shape", ["input_ids"], "length", start=1, end=2)
        positions = self.add("Slice", [places, "first", length], "positions")
        typed = self.add("Gather", [kinds, "token_type_ids"], "types")
        summed = self.add("Add", [self.add("Gather", [words, "input_ids"], "words"), typed], "typed_words")
        summed = self.add("Add", [summed, positions], "embedded")
        return self._norm(summed, "embeddings.LayerNorm", "normed")

    def layer(self, x: str, index: int) -> str:
        source, name = f"encoder.layer.{index}", str(index)
        attended = self._linear(self._attend(x, index), f"{source}.attention.output.dense", f"{name}.out")
        x = self.add("Add", [x, attended], f"{name}.sum1")
        x = self._norm(x, f"{source}.attention.output.LayerNorm", f"{name}.norm1")
        grown = self._linear(x, f"{source}.intermediate.dense", f"{name}.up")
        fed = self._linear(self.add("Gelu", [grown], f"{name}.gelu"), f"{source}.output.dense", f"{name}.down")
        return self._norm(self.add("Add", [x, fed], f"{name}.sum2"), f"{source}.output.LayerNorm", f"{name}.norm2")

    def _attend(self, x: str, index: int) -> str:
        """Queries, keys and values come of one product, which is faster than three."""
        parts = [f"encoder.layer.{index}.attention.self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([self._weights[f"{part}.weight"] for part in parts])
        bias = np.concatenate([self._weights[f"{part}.bias"] for part in parts])
        split = [f"{index}.query", f"{index}.key", f"{index}.value"]
        self.add_many("Split", [self._affine(x, matrix, bias, f"{index}.qkv"), "thirds"], split, axis=-1)
        q = self._heads(split[0], [0, 2, 1, 3])
        k = self._heads(split[1], [0, 2, 3, 1])
        v = self._heads(split[2], [0, 2, 1, 3])
        scores = self.add("Mul", [self.add("MatMul", [q, k], f"{index}.products"), "scale"], f"{index}.scores")
        scores = self.add("Add", [scores, "mask"], f"{index}.masked")
        shares = self.add("Softmax", [scores], f"{index}.shares", axis=-1)
        mixed = self.add("MatMul", [shares, v], f"{index}.mixed")
        mixed = self.add("Transpose", [mixed], f"{index}.rows", perm=[0, 2, 1, 3])
        return self.add("Reshape", [mixed, "merged"], f"{index}.merged")

    def _heads(self, x: str, perm: list[int]) -> str:
        return self.add("Transpose", [self.add("Reshape", [x, "by_head"], f"{x}.split")], f"{x}.heads", perm=perm)

    def _linear(self, x: str, source: str, name: str) -> str:
        return self._affine(x, self._weights[f"{source}.weight"], self._weights[f"{source}.bias"], name)

    def _affine(self, x: str, matrix: np.ndarray, bias: np.ndarray, name: str) -> str:
        """torch keeps [out, in]; the graph multiplies by [in, out]."""
        product = self.add("MatMul", [x, self.put(f"{name}.weight", matrix.T)], f"{name}.product")
        return self.add("Add", [product, self.put(f"{name}.bias", bias)], name)

    def _norm(self, x: str, source: str, name: str) -> str:
        scale, bias = (self.put(f"{name}.{part}", self._weights[f"{source}.{part}"]) for part in ("weight", "bias"))
        return self.add("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=EPSILON)
