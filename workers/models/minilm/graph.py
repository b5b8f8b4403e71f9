"""The encoder graph of all-MiniLM-L6-v2, written node by node from its safetensors: BERT, mean pooling, unit length.

Inputs `input_ids`, `attention_mask`, `token_type_ids` [batch, length]; output `embeddings` [batch, 384]. Pooling stands
in the graph, so that one matrix leaves it instead of a vector per token.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def put(name: str, value: np.ndarray | np.generic) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def linear(x: str, name: str, matrix: np.ndarray, bias: np.ndarray) -> str:
        """torch keeps [out, in]; the graph multiplies by [in, out]."""
        product = add("MatMul", [x, put(f"{name}.weight", matrix.T)], f"{name}.product")
        return add("Add", [product, put(f"{name}.bias", bias)], name)

    def norm(x: str, source: str, name: str) -> str:
        scale, bias = (put(f"{name}.{part}", weights[f"{source}.{part}"]) for part in ("weight", "bias"))
        return add("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=EPSILON)

    def heads(x: str, name: str, perm: list[int]) -> str:
        return add("Transpose", [add("Reshape", [x, "by_head"], f"{name}.split")], name, perm=perm)

    def layer(x: str, index: int) -> str:
        source, name = f"encoder.layer.{index}", str(index)
        parts = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([weights[f"{part}.weight"] for part in parts])
        bias = np.concatenate([weights[f"{part}.bias"] for part in parts])
        split = [f"{name}.query", f"{name}.key", f"{name}.value"]
        qkv = linear(x, f"{name}.qkv", matrix, bias)
        nodes.append(helper.make_node("Split", [qkv, "thirds"], split, f"{name}.thirds", axis=-1))
        q = heads(split[0], f"{name}.q", [0, 2, 1, 3])
        k = heads(split[1], f"{name}.k", [0, 2, 3, 1])
        v = heads(split[2], f"{name}.v", [0, 2, 1, 3])
        scores = add("Mul", [add("MatMul", [q, k], f"{name}.raw"), "scale"], f"{name}.scores")
        shares = add("Softmax", [add("Add", [scores, "mask"], f"{name}.masked")], f"{name}.shares", axis=-1)
        mixed = add("Transpose", [add("MatMul", [shares, v], f"{name}.mixed")], f"{name}.rows", perm=[0, 2, 1, 3])
        mixed = add("Reshape", [mixed, "merged"], f"{name}.merged")
        out = f"{source}.attention.output"
        attended = linear(mixed, f"{name}.out", weights[f"{out}.dense.weight"], weights[f"{out}.dense.bias"])
        x = norm(add("Add", [x, attended], f"{name}.sum1"), f"{out}.LayerNorm", f"{name}.norm1")
        up, down = f"{source}.intermediate.dense", f"{source}.output.dense"
        grown = linear(x, f"{name}.up", weights[f"{up}.weight"], weights[f"{up}.bias"])
        bent = add("Gelu", [grown], f"{name}.gelu")
        fed = linear(bent, f"{name}.down", weights[f"{down}.weight"], weights[f"{down}.bias"])
        return norm(add("Add", [x, fed], f"{name}.sum2"), f"{source}.output.LayerNorm", f"{name}.norm2")

    put("by_head", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    put("merged", np.array([0, 0, WIDTH], np.int64))
    put("thirds", np.array([WIDTH] * 3, np.int64))
    put("scale", np.float32(1 / math.sqrt(WIDTH // HEADS)).reshape(()))
    for name, values in (("zero", [0]), ("one", [1]), ("middle", [1, 2]), ("last", [-1])):
        put(name, np.array(values, np.int64))

    length = add("Shape", ["input_ids"], "length", start=1, end=2)
    table = put("position_table", weights["embeddings.position_embeddings.weight"])
    positions = add("Slice", [table, "zero", length], "positions")
    words = add("Gather", [put("word_table", weights["embeddings.word_embeddings.weight"]), "input_ids"], "words")
    kinds = put("type_table", weights["embeddings.token_type_embeddings.weight"])
    types = add("Gather", [kinds, "token_type_ids"], "types")
    summed = add("Add", [add("Add", [words, types], "typed"), positions], "embedded")
    x = norm(summed, "embeddings.LayerNorm", "0.in")

    present = add("Cast", ["attention_mask"], "present", to=TensorProto.FLOAT)
    absent = add("Sub", [present, put("unit", np.float32(1).reshape(()))], "absent")
    hidden = add("Mul", [absent, put("far", np.float32(1e9).reshape(()))], "hidden")
    add("Unsqueeze", [hidden, "middle"], "mask")
    for index in range(LAYERS):
        x = layer(x, index)

    shown = add("Mul", [x, add("Unsqueeze", [present, "last"], "present_column")], "shown")
    total = add("ReduceSum", [shown, "one"], "total", keepdims=0)
    # The mean's divisor would cancel in the normalisation, so the sum is normalised as it is.
    add("LpNormalization", [total], "embeddings", axis=-1, p=2)

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", WIDTH])]
    graph = helper.make_graph(nodes, "minilm", inputs, outputs, constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, producer_name="isochrone", ir_version=9)
