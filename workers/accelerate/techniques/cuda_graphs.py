"""The module in fp32 on a CUDA device: one captured graph per batch bucket, so that a small batch costs one launch
instead of one per kernel."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import Built, Job
from workers.manifest import Build


def available(job: Job) -> str | None:
    if job.machine.capability is None:
        return "no CUDA device is here: there is nothing to capture"
    from workers.accelerate.techniques import exporting

    return exporting.why_not(job)


def build(job: Job, out: Path) -> Built:
    import torch

    from workers.accelerate.techniques import exporting

    return exporting.archived(job, out, torch.float32, Build())
