"""Writes an ONNX graph node by node from its weights: the shortest way from arrays to a graph one can read.

Every method returns the name of what it made, so calls nest like the formula they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FUSED = "com.microsoft"
"""ONNX Runtime's own operators: one kernel for a rotary embedding, where plain ONNX needs six."""


class Writer:
    """Collects nodes and constants. A node's name is that of its first output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def put(self, name: str, value: np.ndarray | np.generic) -> str:
        """A constant."""
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.put(name, np.array(value, np.float32))

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant that shapes, axes and split sizes are made of."""
        return self.put(name, np.array(values, np.int64))

    def add(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.add_many(op, inputs, [output], domain, **attributes)
        return output

    def add_many(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        self._nodes.append(helper.make_node(op, inputs, outputs, outputs[0], domain=domain, **attributes))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        opset: int,
        ir_version: int,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._constants)
        domains = [helper.make_opsetid("", opset)]
        if any(node.domain == FUSED for node in self._nodes):
            domains.append(helper.make_opsetid(FUSED, 1))
        return helper.make_model(graph, opset_imports=domains, producer_name="isochrone", ir_version=ir_version)


def floats(name: str, *dimensions: int | str) -> onnx.ValueInfoProto:
    """A float input or output; a dimension that varies has a name."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions)


def longs(name: str, *dimensions: int | str) -> onnx.ValueInfoProto:
    """An int64 input or output."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, dimensions)
