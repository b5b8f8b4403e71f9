"""Weights and activations in bfloat16, on PyTorch: half the memory, and more products where the hardware has it."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import Built, Job
from workers.manifest import Build


def available(job: Job) -> str | None:
    if why := job.machine.lacks("torch"):
        return why
    from workers.accelerate.techniques import exporting

    return exporting.why_not(job)


def build(job: Job, out: Path) -> Built:
    from workers.accelerate.techniques import exporting

    return exporting.in_bf16(job, out, Build())
