"""`python -m workers.accelerate.probe`: the peak memory of a process that only loads one variant and runs one batch.

Measured in a process of its own, because the pipeline's has held every variant's weights before. Reads a request as
JSON on standard input, writes bytes on standard output.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from workers.accelerate.opening import opened
from workers.manifest import Build

STATUS = Path("/proc/self/status")
SECONDS = 300.0
"""Longer than any compilation that is worth it."""


class Ask(msgspec.Struct, frozen=True):
    """What to load, and the batch to run: a .npz."""

    file: str
    engine: str
    build: Build
    tokenizer: str
    context: int
    max_batch: int
    device: str
    feeds: str


def peak(status: Path = STATUS) -> int | None:
    """Peak resident bytes of this process. The kernel's VmHWM, because getrusage counts what the parent held, too."""
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else None


def asked(ask: Ask) -> int | None:
    """Ask in a process of its own; None when it cannot tell."""
    command = [sys.executable, "-m", "workers.accelerate.probe"]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=msgspec.json.encode(ask), capture_output=True, timeout=SECONDS, check=True
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=int | None)
    except (subprocess.SubprocessError, msgspec.MsgspecError, IndexError):
        return None


def run(ask: Ask) -> int | None:
    tokenizer = Path(ask.tokenizer) if ask.tokenizer else None
    engine = opened(
        Path(ask.file), ask.engine, ask.build, tokenizer=tokenizer, context=ask.context, max_batch=ask.max_batch,
        device=ask.device,
    )  # fmt: skip
    with np.load(ask.feeds) as kept:
        engine.run(dict(kept))
    if ask.device == "cpu":
        return peak()
    import torch

    return int(torch.cuda.max_memory_reserved())


if __name__ == "__main__":
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Ask))))
