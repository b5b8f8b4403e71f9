"""The spec file of `isochrone accelerate`: what the model is for, and which data judge, calibrate and teach it.

YAML 1.2 into frozen structs; an unknown key, a bad value, a missing file or data of the wrong shape is a `SpecError`
that names the file and the field. Paths are relative to the spec file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from policies.records import Name
from workers.manifest import Quality

CLASSIFICATION, EMBEDDING = "classification", "embedding"
OUTPUTS = {CLASSIFICATION: "probabilities", EMBEDDING: "embeddings"}
"""By task, what the model's output is called unless the spec says otherwise."""
DEFAULT_NAME = "accelerate.yaml"
"""Looked for beside the source where --spec is not given."""

Share = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[int, Meta(ge=1)]


class SpecError(ValueError):
    """A source, spec or data file that cannot be used; the text names the file, the field and what to do."""


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one item of a torch module's input is."""

    shape: tuple[Positive, ...]
    """Without the batch."""
    dtype: Annotated[str, Meta(pattern=r"\A(float32|float64|int64|int32|uint8|bool)\Z")] = "float32"


class DataFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`.npz`: an array per input; `.csv`: a column per feature, or texts; `.txt`: a text per line."""

    file: str
    labels: str = ""
    """Array or column of the right answers: class numbers; for embeddings, the text that belongs to each text."""
    texts: str = "text"
    """Column of a CSV that holds the texts (embeddings)."""
    rows: Positive | None = None
    """Only the first so many."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For pruning and distillation. The reference teaches, so labels may be missing."""

    file: str
    labels: str = ""
    texts: str = "text"
    rows: Positive | None = None
    epochs: Positive = 20
    batch: Positive = 64
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-3


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model."""

    model: Name
    task: str
    """`classification` or `embedding`."""
    evaluation: DataFile
    """Held out: nothing else may see it."""
    calibration: DataFile | None = None
    training: Training | None = None
    student: str = ""
    """`package.module:callable` that returns the torch module to distil into."""
    inputs: dict[str, Input] = {}
    """Of a torch module; by default as in the evaluation data."""
    output: str = ""
    tokenizer: str = ""
    """`tokenizer.json` (embeddings); by default the one beside the source."""
    context: Positive = 256
    """Tokens at which texts are cut (embeddings)."""
    floor: Quality = 0.98
    """Quality below which a variant is not served."""
    keep: Share = 0.5
    """Share of the channels that structured pruning keeps."""
    max_batch: Annotated[int, Meta(ge=1, le=1024)] = 64
    seconds: Annotated[float, Meta(gt=0)] = 0.6
    """For the latency of one batch size."""
    classes: tuple[Name, ...] = ()
    features: tuple[str, ...] = ()
    """Names of a classifier's classes and of its input's columns, for /v1/decisions: into the manifest."""
    licence: str = ""
    source: str = ""
    dataset: str = ""
    """What the evaluation data are, for people."""


def read(path: Path) -> Spec:
    """Raises SpecError."""
    try:
        told = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
        spec = msgspec.convert(told, Spec)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error}): give the path of a spec file with --spec") from error
    except (YAMLError, msgspec.ValidationError) as error:
        raise SpecError(f"{path}: {' '.join(str(error).split())}: correct the field") from error
    if spec.task not in OUTPUTS:
        raise SpecError(f"{path}: $.task: unknown task {spec.task!r}: choose among {', '.join(OUTPUTS)}")
    return spec
