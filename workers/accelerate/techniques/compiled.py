"""torch.compile: kernels generated for this machine while it is loaded; on a CUDA device in bf16 and captured.

On a CPU ONNX Runtime was faster than compiled code for every model tried here.
"""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import Built, Job
from workers.manifest import Build


def available(job: Job) -> str | None:
    if why := job.machine.lacks("torch"):
        return why
    from workers.accelerate.techniques import exporting

    return exporting.why_not(job) or (exporting.compiler() if job.machine.device == "cpu" else None)


def build(job: Job, out: Path) -> Built:
    import torch

    from workers.accelerate.techniques import exporting

    dtype = torch.float32 if job.machine.device == "cpu" else torch.bfloat16
    return exporting.archived(job, out, dtype, Build(compiled=True))
