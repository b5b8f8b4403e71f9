"""What runs models. `Engine` is the seam for tensor models; text generation has its own shape, `slots.SlotEngine`.

Engines are synchronous and belong to one thread: a worker is one accelerator, and the thread that drives it makes all
calls. They know nothing of requests, deadlines or HTTP; `workers/batcher.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class TensorSpec(NamedTuple):
    """A model's input or output as the Open Inference Protocol describes it."""

    name: str
    datatype: str
    """`FP32`, `INT64`, ...: the protocol's names."""
    shape: tuple[int, ...]
    """-1 where any size goes; the first dimension is the batch."""


class StoppedError(Exception):
    """A run ended early because it was told to stop."""


class Engine(Protocol):
    """A loaded tensor model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch, blocking. Raises ValueError that names the input at fault."""
        ...


def check(feeds: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], dtypes: Mapping[str, np.dtype]) -> None:
    """Raise ValueError naming the input that is missing, unknown, or of a wrong type or shape."""
    unknown = feeds.keys() - dtypes.keys()
    if unknown:
        raise ValueError(f"unknown input {min(unknown)!r}: the model takes {', '.join(dtypes)}")
    batch = None
    for spec in inputs:
        value = feeds.get(spec.name)
        if value is None:
            raise ValueError(f"input {spec.name!r} is missing")
        if value.dtype != dtypes[spec.name]:
            raise ValueError(f"input {spec.name!r} must be {spec.datatype}, not {value.dtype}")
        fits = len(value.shape) == len(spec.shape) and all(
            want in (-1, has) for want, has in zip(spec.shape, value.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"input {spec.name!r} must have shape {list(spec.shape)}, not {list(value.shape)}")
        if value.size == 0:
            raise ValueError(f"input {spec.name!r} is empty")
        if batch is not None and value.shape[0] != batch:
            raise ValueError(f"input {spec.name!r} has a batch of {value.shape[0]}, the inputs before it {batch}")
        batch = value.shape[0]
