"""Half precision weights and products; inputs and outputs stay float32. Half the size anywhere; most processors compute
it by widening, so only a measurement says whether it is also faster."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import Built, Job


def available(job: Job) -> str | None:
    return job.machine.lacks("onnx")


def build(job: Job, out: Path) -> Built:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = out.with_name(f"{out.name}.onnx")
    onnx.save(convert_float_to_float16(onnx.load(job.source.graph), keep_io_types=True), path)
    return Built(path, job.source.engine)
