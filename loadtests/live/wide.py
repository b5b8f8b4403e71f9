"""A real tensor model whose batches pay: wide dense layers, so that one input costs the reading of all weights.

What large rankers and decoders are like on any hardware. The weights are drawn, not trained: what a batch takes does
not depend on their values. Built with its manifest into a folder; the manifest is the digits' with its figures
replaced, and its curve a guess that the worker corrects before it serves.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "wide"
FEATURES = 16
WIDTH = 4096
LAYERS = 5
"""Of WIDTH by WIDTH: 335 MB, ten times what a server's last cache holds."""
MAX_BATCH = 32


def build(folder: Path, width: int = WIDTH, layers: int = LAYERS) -> Path:
    """Its manifest; built once, and again if the sizes changed."""
    path = folder / f"{MODEL}.manifest.json"
    graph = folder / f"{MODEL}-{width}x{layers}.onnx"
    if not (graph.is_file() and path.is_file() and graph.name in path.read_text()):
        folder.mkdir(parents=True, exist_ok=True)
        graph.write_bytes(_graph(width, layers))
        path.write_text(json.dumps(_manifest(graph)))
    return path


def _graph(width: int, layers: int) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, sizes = np.random.default_rng(0), [FEATURES, *[width] * (layers + 1), 2]
    nodes, weights, flows = [], [], "features"
    for index, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        drawn = rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))
        weights.append(numpy_helper.from_array(drawn, f"weights_{index}"))
        last = index == len(sizes) - 2
        nodes.append(helper.make_node("MatMul", [flows, f"weights_{index}"], ["scores" if last else f"mixed_{index}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"mixed_{index}"], [f"hidden_{index}"]))
        flows = f"hidden_{index}"
    made = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _manifest(graph: Path) -> dict[str, Any]:
    digits = resources.files("workers") / "models" / "digits" / "digits.manifest.json"
    told: dict[str, Any] = json.loads(digits.read_text())
    raw = graph.read_bytes()
    variant = told["variants"][0] | {
        "file": graph.name, "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "max_batch": MAX_BATCH,
        "curve": {"base": 0.015, "item": 0.0015},
    }  # fmt: skip
    return told | {"model": MODEL, "source": "drawn weights", "classes": [], "variants": [variant]}


def body(seed: int) -> bytes:
    """One request's features."""
    features = np.random.default_rng(seed).standard_normal(FEATURES).round(3).tolist()
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, FEATURES], "data": features}
    return json.dumps({"inputs": [tensor]}).encode()
