"""Fp8 weights and activations, one scale per row, on the matrix units of CUDA devices that have them (torchao)."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.techniques import Built, Job
from workers.manifest import Build

CAPABILITY = (8, 9)
"""Ada and later."""


def available(job: Job) -> str | None:
    if job.machine.capability is None or job.machine.capability < CAPABILITY:
        return "no CUDA device of capability 8.9 or more (Ada, Hopper and later) is here: only they multiply in fp8"
    if why := job.machine.lacks("torch", "torchao"):
        return why
    from workers.accelerate.techniques import exporting

    return exporting.why_not(job)


def build(job: Job, out: Path) -> Built:
    from workers.accelerate.techniques import exporting

    return exporting.in_bf16(job, out, Build(form="fp8"))
