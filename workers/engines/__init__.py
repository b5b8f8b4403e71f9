"""What runs models. `Engine` is the seam for tensor models; text generation has its own shape, `slots.SlotEngine`.

Engines are synchronous and belong to one thread: a worker is one accelerator, and the thread that drives it makes all
calls. They know nothing of requests, deadlines or HTTP; `workers/batcher.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class TensorSpec(NamedTuple):
    """A model's input or output as the Open Inference Protocol describes it."""

    name: str
    datatype: str
    """`FP32`, `INT64`, ...: the protocol's names."""
    shape: tuple[int, ...]
    """-1 where any size goes; the first dimension is the batch."""


class Stopped(Exception):
    """A run ended early because it was told to stop."""


class Engine(Protocol):
    """A loaded tensor model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch, blocking. Raises ValueError that names the input at fault."""
        ...
