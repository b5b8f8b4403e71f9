"""Opens what a technique built the way a worker will serve it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from workers.engines import Engine
from workers.engines.embed import Embedder
from workers.engines.onnx import OnnxEngine
from workers.manifest import Build


def opened(
    path: Path, engine: str, build: Build, *, tokenizer: Path | None, context: int, max_batch: int, device: str
) -> Engine | Embedder:
    """Raises ValueError that names the file, or ImportError."""
    if engine == "embed":
        assert tokenizer is not None, "data.py asks for it"
        return Embedder(path, tokenizer, context)
    if engine == "torch":
        import torch  # needed for its variants only

        from workers.engines.torch_tensors import TorchEngine

        torch.set_num_threads(1)  # a worker is one core, and its time the thread's
        return TorchEngine(path, form=build.form, compiled=build.compiled, max_batch=max_batch, device=device)
    return OnnxEngine(path, (build.provider,) if build.provider else ())


def clock_of(engine: Engine | Embedder) -> tuple[str, Callable[[], float]]:
    """How its runs are timed: by the calling thread's CPU time where that is where the work is done."""
    if isinstance(engine, Embedder) or (isinstance(engine, OnnxEngine) and engine.on_cpu):
        return "cpu", time.thread_time
    if str(getattr(engine, "device", "")) == "cpu":
        return "cpu", time.thread_time
    return "wall", time.monotonic
