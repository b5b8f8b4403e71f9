"""One file per technique. Each says whether this machine can do it, and makes one variant of a source.

Techniques join with `+` (`pruned+int8_static`): each starts from the graph of the one before it. None is imported
before it is asked for, so those that need torch cost the others nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from workers.accelerate.data import Data
from workers.accelerate.machine import Machine
from workers.accelerate.sources import Source
from workers.accelerate.spec import Spec, SpecError
from workers.engines.onnx import PROVIDERS
from workers.manifest import Build


class Job(NamedTuple):
    """What a technique works with."""

    spec: Spec
    place: Path
    """The spec file, for messages."""
    source: Source
    machine: Machine
    held: Data
    """Only for shapes: nothing is learned from it."""
    calibration: Data | None = None
    training: Data | None = None


class Built(NamedTuple):
    """A variant's file, and what the engine makes of it."""

    path: Path
    engine: str
    build: Build = Build()


class Technique(Protocol):
    """A module under techniques/ has these two."""

    def available(self, job: Job) -> str | None:
        """Why it cannot be done here, on this source, with this spec; None if it can."""
        ...

    def build(self, job: Job, out: Path) -> Built:
        """Make the variant; `out` is its path without a suffix. Raises ValueError or RuntimeError when it fails."""
        ...


TECHNIQUES = (
    "fp32",
    "fp16",
    "bf16",
    "int8_dynamic",
    "int8_static",
    "int4",
    "fp8",
    "pruned",
    "sparse24",
    "distilled",
    "compiled",
    "cuda_graphs",
    "graph_optimized",
    "tensorrt",
    "openvino",
)
"""Every one is a module; this is also the order in which all of them are tried."""
REFERENCE = "fp32"

NEEDS_MODULE = "needs a torch module to start from: the source, or the technique before it, is a graph"


def technique(name: str) -> Technique:
    """Raises SpecError naming the choices."""
    if name not in TECHNIQUES:
        raise SpecError(f"--variants: no technique {name!r}: choose among {', '.join(TECHNIQUES)}, joined by +")
    return importlib.import_module(f"{__name__}.{name}")


def chain(variant: str) -> list[str]:
    """A variant's techniques, all known. Raises SpecError."""
    names = variant.split("+")
    for name in names:
        technique(name)
    if len(names) > 1 and REFERENCE in names:
        raise SpecError(f"--variants: {variant}: {REFERENCE} is what every technique starts from: leave it out")
    return names


def after(job: Job, built: Built) -> Job:
    """The job of the technique that comes next. Raises ValueError where it has nothing to start from."""
    if built.path.suffix != ".onnx":
        raise ValueError(f"{built.path.name} is made while it is loaded: nothing can come after it")
    return job._replace(source=job.source._replace(graph=built.path, module=None))


def lacks_provider(job: Job, provider: str, package: str) -> str | None:
    """Why ONNX Runtime has not this one of its providers here."""
    if job.source.engine != "onnx":
        return "the engine for sentence embeddings runs on ONNX Runtime's CPU provider"
    if PROVIDERS[provider] in job.machine.providers:
        return None
    there = ", ".join(sorted(job.machine.providers))
    return f"this ONNX Runtime has no {PROVIDERS[provider]} (it has {there}): install {package}"


@contextlib.contextmanager
def quieted() -> Iterator[None]:
    """ONNX Runtime's quantizers log advice that made no difference to any graph here, to the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
