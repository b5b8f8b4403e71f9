"""2:4 sparsity: of every four neighbouring weights the two smaller are zero, which sparse tensor cores skip.

The mask is ours, by magnitude, and held while the rest is fine-tuned; the kernels are torch's own, for CUDA alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workers.accelerate.techniques import Built, Job
from workers.manifest import Build

if TYPE_CHECKING:
    from torch import nn

CAPABILITY = (8, 0)
"""Ampere and later."""


def available(job: Job) -> str | None:
    if job.machine.capability is None or job.machine.capability < CAPABILITY:
        return "no CUDA device of capability 8.0 or more (Ampere and later) is here: only they skip the zeros"
    from workers.accelerate.techniques import exporting

    return exporting.why_not(job)


def build(job: Job, out: Path) -> Built:
    import torch

    from workers.accelerate.techniques import exporting, training

    assert job.source.module is not None
    module = job.source.module()
    mask = masked(module)
    if job.training is not None:
        training.taught(module, job, mask)
    return exporting.archived(job, out, torch.bfloat16, Build(form="sparse24"), module)


def masked(module: nn.Module) -> Callable[[], None]:
    """Prune the linear layers; the function returned does it again with the same mask, after a step of training."""
    import torch

    from workers.engines.torch_precision import keep_two_of_four, linears

    masks = [(linear, keep_two_of_four(linear.weight.detach())) for _, linear in linears(module)]

    def apply() -> None:
        with torch.no_grad():
            for linear, mask in masks:
                linear.weight.mul_(mask.to(linear.weight.device))

    apply()
    return apply
