"""A function of fixed-shape tensors captured as a CUDA graph: one launch replays all its kernels.

Inputs and outputs are static buffers, written before and read after `replay`. On a CPU there is nothing to capture
and `replay` calls the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UPS = 3
"""Runs before the capture: libraries choose their algorithms and allocate workspaces in the first ones."""


class Graph:
    """`function(*inputs)` captured once. Its inputs are kept, so the caller may write into them between replays."""

    def __init__(self, function: Callable[..., Any], inputs: Sequence[torch.Tensor], pool: Any = None) -> None:
        self.inputs = inputs
        self.outputs: Any = None
        self._function = function
        self._graph: Any = None
        if inputs[0].device.type == "cuda":
            self._capture(pool)
        else:
            self.replay()

    def replay(self) -> Any:
        """Run on what is in `inputs`; the outputs are overwritten by the next replay."""
        if self._graph is None:
            self.outputs = self._function(*self.inputs)
        else:
            self._graph.replay()
        return self.outputs

    def _capture(self, pool: Any) -> None:
        device = self.inputs[0].device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._function(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self.outputs = self._function(*self.inputs)
