"""What is accelerated: a Hugging Face style folder, an ONNX file, or a callable that returns a torch module.

Whatever it is, it ends up as an fp32 ONNX graph, which every technique that needs no torch starts from; where there is
a torch module, it is kept for those that do. torch is imported only for sources that need it.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workers import memory
from workers.accelerate.machine import Machine
from workers.accelerate.spec import EMBEDDING, Spec, SpecError
from workers.engines import TensorSpec
from workers.engines.onnx import OnnxEngine
from workers.manifest import digest

COPIES = 4
"""Times its weights that the pipeline holds at once: the module, the graph, and both again while one is converted."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Source(NamedTuple):
    """Ready to be accelerated."""

    name: str
    graph: Path
    """fp32, ONNX."""
    sha256: str
    output: str
    inputs: tuple[TensorSpec, ...]
    tokenizer: Path | None = None
    module: Callable[[], Any] | None = None
    """Makes the torch module anew, for inference; None where there is none."""

    @property
    def engine(self) -> str:
        """That serves its ONNX graphs."""
        return "embed" if self.tokenizer is not None else "onnx"


def exists(told: str) -> None:
    """Raises SpecError where there is nothing of this name to open."""
    path = Path(told)
    if path.suffix == ".onnx" and not path.is_file():
        raise SpecError(f"{path}: no such file: give an ONNX file, a folder, or package.module:callable")
    if not path.is_dir() and path.suffix != ".onnx" and ":" not in told:
        raise SpecError(f"{told}: neither a folder nor an .onnx file nor package.module:callable")


def opened(
    told: str, spec: Spec, place: Path, example: Mapping[str, np.ndarray], work: Path, machine: Machine
) -> Source:
    """Open what the user named; graphs that must be exported go to `work`. `place` is the spec file.

    Raises SpecError."""
    path = Path(told)
    tokenizer = _tokenizer(path, spec, place)
    if path.is_dir():
        return _exported(told, _folder(path, spec, machine), _weights(path), spec, example, work, tokenizer)
    if path.suffix == ".onnx":
        _fits(path, path.stat().st_size)
        return _graph(told, path, digest(path), spec, tokenizer)
    if why := machine.lacks("torch", "onnxscript"):
        raise SpecError(f"{told}: a torch module: {why}")
    return _exported(told, named(told), None, spec, example, work, tokenizer)


def named(told: str, field: str = "") -> Callable[[], Any]:
    """The callable of this name. Raises SpecError."""
    module, _, name = told.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"{field or told}: {told!r} cannot be had ({error}): give package.module:callable") from error
    if not callable(found):
        raise SpecError(f"{field or told}: {told!r} is not callable: it must return a torch module")

    def make() -> Any:
        return found().eval()

    return make


def _graph(told: str, path: Path, sha256: str, spec: Spec, tokenizer: Path | None, module: Any = None) -> Source:
    try:
        engine = OnnxEngine(path)
    except (ValueError, KeyError) as error:
        raise SpecError(f"{told}: {error}") from error
    outputs = [each.name for each in engine.outputs]
    output = spec.output or (outputs[0] if len(outputs) == 1 else "")
    if spec.task == EMBEDDING:
        output = "embeddings"  # the name that the engine for sentences reads
    if output not in outputs:
        raise SpecError(f"{told}: $.output: the model has no output {output!r}: choose among {', '.join(outputs)}")
    return Source(told, path, sha256, output, engine.inputs, tokenizer, module)


def _exported(
    told: str, make: Callable[[], Any], weights: Path | None, spec: Spec, example: Mapping[str, np.ndarray], work: Path,
    tokenizer: Path | None,
) -> Source:  # fmt: skip
    if weights is not None:
        _fits(weights, weights.stat().st_size)
    from workers.accelerate.techniques import exporting

    module = make()
    path = work / f"{spec.model}.source.onnx"
    try:
        exporting.to_onnx(module, example, output_name(spec), path)
    except (RuntimeError, ValueError, TypeError) as error:
        raise SpecError(f"{told}: cannot be exported as a graph: {str(error).partition(chr(10))[0]}") from error
    sha256 = digest(weights) if weights is not None else hashlib.sha256(path.read_bytes()).hexdigest()
    return _graph(told, path, sha256, spec, tokenizer, make)


def output_name(spec: Spec) -> str:
    from workers.accelerate.spec import OUTPUTS

    return OUTPUTS[spec.task] if spec.task == EMBEDDING or not spec.output else spec.output


def _folder(path: Path, spec: Spec, machine: Machine) -> Callable[[], Any]:
    for wanted in ("config.json", "tokenizer.json"):
        if not (path / wanted).is_file():
            raise SpecError(f"{path}: {wanted} is missing: a Hugging Face folder has it")
    if spec.task != EMBEDDING:
        raise SpecError(f"{path}: $.task: a folder is opened for embedding; for {spec.task} give a callable")
    if why := machine.lacks("torch", "transformers", "onnxscript"):
        raise SpecError(f"{path}: a Hugging Face folder: {why}, or give an ONNX file")
    from workers.accelerate.techniques import exporting

    return lambda: exporting.sentence_encoder(path)


def _weights(path: Path) -> Path:
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise SpecError(f"{path}: none of {', '.join(WEIGHTS)} is there: give a folder with weights in one file")
    return found


def _fits(path: Path, size: int) -> None:
    free = memory.available()
    if free is not None and size * COPIES > free:
        raise SpecError(
            f"{path}: its weights are {memory.said(size)}, and accelerating takes about {COPIES} times that; "
            f"{memory.said(free)} of memory is free: use a machine with more"
        )


def _tokenizer(path: Path, spec: Spec, place: Path) -> Path | None:
    """None for a model that reads no texts."""
    if spec.task != EMBEDDING:
        return None
    beside = path if path.is_dir() else path.parent
    found = place.parent / spec.tokenizer if spec.tokenizer else beside / "tokenizer.json"
    if not found.is_file():
        raise SpecError(f"{place}: $.tokenizer: {found} is missing: give the path of a tokenizer.json")
    return found


def tokenizer_of(told: str, spec: Spec, place: Path) -> Path | None:
    """The source's tokenizer, before the source is opened. Raises SpecError."""
    return _tokenizer(Path(told), spec, place)


def copied(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target


def ordered(feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: feeds[name] for name in names}
