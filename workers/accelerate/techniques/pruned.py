"""Structured pruning: whole channels of least magnitude go, in all layers that hang together (torch-pruning), then the
rest is fine-tuned. Smaller dense products are faster everywhere; single zeroed weights gained nothing anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.accelerate.spec import EMBEDDING
from workers.accelerate.techniques import NEEDS_MODULE, Built, Job

MULTIPLE = 8
"""Channels that are kept come in eights: vector units compute eight floats or more at once."""


def available(job: Job) -> str | None:
    if job.spec.task == EMBEDDING:
        return "attention ties channels to heads, which this pruning would tear: distil into a narrower student instead"
    if why := job.machine.lacks("torch", "torch_pruning", "onnxscript"):
        return why
    if job.source.module is None:
        return NEEDS_MODULE
    from workers.accelerate.techniques import training

    return training.lacks_data(job)


def build(job: Job, out: Path) -> Built:
    from workers.accelerate.techniques import exporting, training

    assert job.source.module is not None
    module = job.source.module()
    prune(module, exporting.examples(job.held.feeds), job.spec.keep)
    path = out.with_name(f"{out.name}.onnx")
    exporting.to_onnx(training.taught(module, job), job.held.feeds, job.source.output, path)
    return Built(path, job.source.engine)


def prune(module: Any, example: dict[str, Any], keep: float) -> None:
    """Keep this share of every layer's channels; the outputs stay as many. Raises ValueError when none can go."""
    import torch_pruning
    from torch import nn

    before = sum(parameter.numel() for parameter in module.parameters())
    if any(isinstance(part, nn.MultiheadAttention) for part in module.modules()):
        raise ValueError("attention ties channels to heads, which this pruning would tear")
    pruner = torch_pruning.pruner.BasePruner(
        module,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=1 - keep,
        ignored_layers=[last_layer(module, example)],
        round_to=MULTIPLE,
    )
    pruner.step()
    if sum(parameter.numel() for parameter in module.parameters()) == before:
        raise ValueError(f"no layer has {MULTIPLE} channels to spare: nothing can be pruned")


def last_layer(module: Any, example: dict[str, Any]) -> Any:
    """The layer with weights that runs last: its channels are the model's answer. Raises ValueError without one."""
    import torch
    from torch import nn

    seen: list[Any] = []
    layers = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(lambda layer, _given, _found: seen.append(layer)) for layer in layers]
    try:
        with torch.no_grad():
            module(**example)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("it has no linear or convolutional layer: nothing can be pruned")
    return seen[-1]
