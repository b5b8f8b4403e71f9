"""ONNX Runtime's graph optimisation, done once and kept: constant folding, fusions and this processor's layouts.

Every other ONNX variant has it done while it is loaded, so this one only loads faster. It suits this kind of processor
alone.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from workers.accelerate.techniques import Built, Job
from workers.engines.onnx import SLOWER_FUSIONS


def available(job: Job) -> str | None:
    return None


def build(job: Job, out: Path) -> Built:
    path = out.with_name(f"{out.name}.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(
        str(job.source.graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSIONS
    )
    return Built(path, job.source.engine)
