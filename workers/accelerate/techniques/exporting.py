"""From a torch module to files that engines serve: ONNX graphs, and `torch.export` archives for PyTorch's own."""

from __future__ import annotations

import functools
import inspect
import logging
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workers.accelerate.data import cycled
from workers.accelerate.techniques import NEEDS_MODULE, Built, Job
from workers.manifest import Build

ROWS = 2
"""Of the example an export sees: one row would be taken for a fixed size."""
LARGEST = 1024
"""Batch that an exported program must take: the manifest's own limit."""
OPSET = 20
"""The first with Gelu as one operator."""


def why_not(job: Job) -> str | None:
    """Why there can be no variant on the engine of torch modules."""
    if why := job.machine.lacks("torch"):
        return why
    if job.source.engine != "onnx":
        return "the engine for sentence embeddings runs ONNX graphs only"
    return None if job.source.module else NEEDS_MODULE


def to_onnx(module: nn.Module, feeds: Mapping[str, np.ndarray], output: str, path: Path) -> None:
    """One file, the batch and the length of texts free. Raises RuntimeError where torch cannot trace the module."""
    example = examples(feeds)
    with quieted():
        torch.onnx.export(
            named(module.eval(), output),
            (),
            str(path),
            kwargs=example,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes={name: free(name, value) for name, value in example.items()},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def in_bf16(job: Job, out: Path, build: Build) -> Built:
    """An archive in bf16, of which the engine makes `build` while it loads it."""
    return archived(job, out, torch.bfloat16, build)


def archived(job: Job, out: Path, dtype: torch.dtype, build: Build, module: nn.Module | None = None) -> Built:
    if module is None:
        assert job.source.module is not None, "why_not asks for it"
        module = job.source.module()
    path = out.with_name(f"{out.name}.pt2")
    save(module.to(dtype), job.held.feeds, job.source.output, path, dtype)
    return Built(path, "torch", build)


def save(module: nn.Module, feeds: Mapping[str, np.ndarray], output: str, path: Path, dtype: torch.dtype) -> None:
    """A `.pt2` whose float inputs are of `dtype`."""
    example = {name: value.to(dtype) if value.is_floating_point() else value for name, value in examples(feeds).items()}
    shapes = {name: {0: torch.export.Dim("batch", min=1, max=LARGEST)} for name in example}
    places = [name for name in inspect.signature(module.forward).parameters if name in example]
    with quieted():
        # By place, because that is how the engine calls it.
        given = tuple(example[name] for name in places)
        program = torch.export.export(named(module.eval(), output), given, dynamic_shapes=shapes)
        torch.export.save(program, path)


def examples(feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in cycled(feeds, ROWS).items()}


def free(name: str, value: torch.Tensor) -> dict[int, Any]:
    """The dimensions that vary: the batch, and of token ids the length."""
    varying = {0: torch.export.Dim.DYNAMIC}
    return varying | {1: torch.export.Dim.DYNAMIC} if name in SEQUENCES and value.dim() > 1 else varying


SEQUENCES = ("input_ids", "attention_mask", "token_type_ids")


def named(module: nn.Module, output: str) -> nn.Module:
    """The module, its only output under this name. Raises ValueError when it has none of that name."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {output: tensor_of(inner(*args, **kwargs), output)}

    module.forward = forward
    return module


def tensor_of(found: Any, output: str) -> torch.Tensor:
    """The output of this name, or the only one."""
    if isinstance(found, Mapping):
        if output not in found:
            raise ValueError(f"the module returns {', '.join(found)}, no {output!r}: correct $.output")
        found = found[output]
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"the module returns a {type(found).__name__}, not a tensor or a dict of tensors")
    return found


class SentenceEncoder(nn.Module):
    """A Hugging Face encoder whose token vectors are averaged and brought to unit length."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        shown = states * attention_mask.unsqueeze(-1).to(states.dtype)
        # The mean's divisor would cancel in the normalisation, so the sum is normalised as it is.
        return nn.functional.normalize(shown.sum(1), dim=-1)


def sentence_encoder(folder: Path) -> SentenceEncoder:
    """Raises OSError or ValueError when the folder holds no encoder."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with quieted():
        return SentenceEncoder(AutoModel.from_pretrained(folder, local_files_only=True)).eval()


class quieted(warnings.catch_warnings):  # noqa: N801  a context manager, used as a function is
    """Without what torch and the exporter say of their own future."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        self._loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "transformers")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)
        return entered

    def __exit__(self, *exc: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        super().__exit__(*exc)


def compiler() -> str | None:
    """Why torch.compile has no compiler for CPU code here."""
    there = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return None if there else "torch.compile needs a C++ compiler (g++ or clang++) for CPU code"
