"""Int4 weights in blocks, activations as they are: made for decoders, which wait for memory and not for products.

On a small encoder it was slower than int8 and lost an eighth of its neighbours: the verdict says so where it is so.
"""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import NEEDS_MODULE, Built, Job, quieted
from workers.manifest import Build

BLOCK = 32
"""Weights per scale: smaller blocks keep more and take more room for scales."""
FASTEST = 4
"""ONNX Runtime's accuracy level that multiplies in int8: 2.8 times as fast as level 0 on one core."""


def available(job: Job) -> str | None:
    if job.machine.device == "cuda":
        return job.machine.lacks("torch", "torchao") or (None if job.source.module else NEEDS_MODULE)
    return job.machine.lacks("onnx", "onnx_ir")


def build(job: Job, out: Path) -> Built:
    if job.machine.device == "cuda":
        from workers.accelerate.techniques import exporting  # imports torch

        return exporting.in_bf16(job, out, Build(form="int4_weights"))
    path = out.with_name(f"{out.name}.onnx")
    quantize(job.source.graph, path)
    return Built(path, job.source.engine)


def quantize(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quieted():
        maker = MatMulNBitsQuantizer(onnx.load(source), block_size=BLOCK, is_symmetric=True, accuracy_level=FASTEST)
        maker.process()
    graph = maker.model.model
    if not any(node.op_type == "MatMulNBits" for node in graph.graph.node):
        raise ValueError("it has no MatMul with constant weights: Gemm and Conv have no int4 kernels")
    onnx.save(graph, target)
