"""Tensor models on ONNX Runtime, one thread each: a worker is one core, and its CPU time is what it charges.

`open_session` is how every engine here loads a graph; `OnnxEngine` is the `Engine` for plain tensor models.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from workers.engines import StoppedError, TensorSpec, check

log = logging.getLogger(__name__)

# ONNX Runtime's type name -> (Open Inference Protocol datatype, numpy dtype)
TYPES = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(bool)": ("BOOL", np.bool_),
}
WARNINGS_AND_WORSE = 3
SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""Fuses a residual into its norm, whose kernel takes five times as long on a CPU as the two apart: without it the int8
encoder is 16 % faster (ONNX Runtime 1.32)."""


PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Names that options take -> ONNX Runtime's. TensorRT builds an engine per shape when it first sees it: minutes."""
CPU = "CPUExecutionProvider"


def open_session(path: Path, providers: Sequence[str] = (), memory: int | None = None) -> ort.InferenceSession:
    """Load a graph for one thread, and for those of the providers that this ONNX Runtime has; `memory` bytes of their
    device at most. Raises ValueError naming the file when it is missing or not a graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = WARNINGS_AND_WORSE
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # denormals cost hundreds of cycles each
    if not path.is_file():
        raise ValueError(f"{path}: no such model file")
    try:
        return ort.InferenceSession(
            str(path), options, providers=chosen(providers, memory), disabled_optimizers=SLOWER_FUSIONS
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        raise ValueError(f"{path}: ONNX Runtime cannot load it: {error}") from error


class OnnxEngine:
    """A tensor model whose inputs and outputs all have the batch as their first dimension."""

    def __init__(self, path: Path, providers: Sequence[str] = (), memory: int | None = None) -> None:
        self._session = open_session(path, providers, memory)
        self.on_cpu = self._session.get_providers() == [CPU]
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._dtypes = {node.name: np.dtype(TYPES[node.type][1]) for node in self._session.get_inputs()}
        self._names = [spec.name for spec in self.outputs]
        self._running = ort.RunOptions()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch. Raises ValueError naming the input that is missing, unknown, or of a wrong type or shape;
        StoppedError after `stop`."""
        check(feeds, self.inputs, self._dtypes)
        self._running = running = ort.RunOptions()
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(feeds), running), strict=True))
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            if running.terminate:
                raise StoppedError from error
            raise

    def stop(self) -> None:
        """End the run in progress at its next operator; from any thread. The next run is not touched."""
        self._running.terminate = True


def chosen(wanted: Sequence[str], memory: int | None) -> list[Any]:
    """Providers in order of preference, the CPU last; those not installed are left out, which is said."""
    there = ort.get_available_providers()
    found: list[Any] = []
    for name in (PROVIDERS[each] for each in wanted):
        if name not in there:
            log.warning("this ONNX Runtime has no %s: it has %s", name, ", ".join(there))
        elif name == PROVIDERS["cuda"] and memory is not None:
            found.append((name, {"gpu_mem_limit": str(memory)}))
        else:
            found.append(name)
    return [*found, CPU]


def _spec(node: ort.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, TYPES[node.type][0], shape)
