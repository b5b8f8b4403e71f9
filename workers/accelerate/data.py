"""Held-out, calibration and training data: read from the files a spec names, checked against what the model takes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from workers.accelerate.spec import EMBEDDING, DataFile, Input, Spec, SpecError, Training
from workers.engines import TensorSpec
from workers.tensors import DTYPES


class Data(NamedTuple):
    """Items of one file."""

    feeds: Mapping[str, np.ndarray]
    """By input, a row per item; texts as tokens, padded to the longest."""
    labels: np.ndarray | None = None
    texts: Sequence[str] = ()
    matches: Sequence[str] = ()
    """For each text the one that belongs to it."""

    @property
    def rows(self) -> int:
        return len(next(iter(self.feeds.values())))


class Place(NamedTuple):
    """Where an error about data is looked for."""

    spec: Path
    field: str

    def wrong(self, what: str) -> SpecError:
        return SpecError(f"{self.spec}: $.{self.field}: {what}")


def read(spec: Spec, file: DataFile | Training, place: Place, tokenizer: Path | None) -> Data:
    """Raises SpecError naming the field."""
    path = place.spec.parent / file.file
    if not path.is_file():
        raise place.wrong(f"{path} is missing: correct `file`, or make it")
    if spec.task == EMBEDDING:
        return _texts(spec, file, path, place, tokenizer)
    if path.suffix == ".npz":
        return _arrays(file, path, place)
    if path.suffix == ".csv":
        return _table(spec, file, path, place)
    raise place.wrong(f"{path.name} is no kind of data for {spec.task}: give a .npz or a .csv")


def _arrays(file: DataFile | Training, path: Path, place: Place) -> Data:
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = {name: kept[name][: file.rows] for name in kept.files}
    except (OSError, ValueError) as error:
        raise place.wrong(f"{path} is no .npz of plain arrays: {error}") from error
    labels = _labels(file, arrays.pop(file.labels, None), path, place, arrays)
    counts = {name: len(value) for name, value in arrays.items()}
    if labels is not None:
        counts[file.labels] = len(labels)
    if not arrays or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise place.wrong(f"{path.name}: its arrays must have as many rows as each other, and some: {counts}")
    return Data(arrays, labels)


def _table(spec: Spec, file: DataFile | Training, path: Path, place: Place) -> Data:
    head, rows = _rows(file, path, place)
    try:
        columns = {name: np.array([float(row[i]) for row in rows], np.float32) for i, name in enumerate(head)}
    except (ValueError, IndexError) as error:
        raise place.wrong(f"{path.name}: every cell must be a number: {error}") from error
    labels = _labels(file, columns.pop(file.labels, None), path, place, columns)
    names = list(spec.inputs) or ["features"]
    if len(names) != 1:
        raise place.wrong(f"{path.name} makes one input, the model has {', '.join(names)}: give a .npz")
    return Data({names[0]: np.stack(list(columns.values()), axis=1)}, labels)


def _rows(file: DataFile | Training, path: Path, place: Place) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8") as opened:
        head, *rows = csv.reader(opened)
    if not rows:
        raise place.wrong(f"{path.name} has no rows below its head")
    return head, rows[: file.rows]


def _labels(
    file: DataFile | Training, found: np.ndarray | None, path: Path, place: Place, there: Mapping[str, object]
) -> np.ndarray | None:
    if file.labels and found is None:
        raise place.wrong(f"{path.name} has no {file.labels!r}: correct `labels`, it has {', '.join(there)}")
    return None if found is None else found.astype(np.int64)


def _texts(spec: Spec, file: DataFile | Training, path: Path, place: Place, tokenizer: Path | None) -> Data:
    matches: list[str] = []
    if path.suffix == ".txt":
        texts = [line for line in path.read_text("utf-8").splitlines() if line.strip()][: file.rows]
    elif path.suffix == ".csv":
        head, rows = _rows(file, path, place)
        for column in filter(None, (file.texts, file.labels)):
            if column not in head:
                raise place.wrong(f"{path.name} has no column {column!r}: it has {', '.join(head)}")
        texts = [row[head.index(file.texts)] for row in rows]
        matches = [row[head.index(file.labels)] for row in rows] if file.labels else []
    else:
        raise place.wrong(f"{path.name} is no kind of data for {spec.task}: give a .txt or a .csv")
    if not texts:
        raise place.wrong(f"{path.name} holds no text")
    if tokenizer is None:
        raise SpecError(f"{place.spec}: $.tokenizer: embeddings need a tokenizer.json: give its path")
    return Data(tokenized(tokenizer, texts, spec.context), None, texts, matches)


def tokenized(tokenizer: Path, texts: Sequence[str], context: int) -> dict[str, np.ndarray]:
    """Texts as the encoder's three inputs."""
    words = tokenizers.Tokenizer.from_file(str(tokenizer))
    words.no_padding()
    words.enable_truncation(context)
    rows = [words.encode(text).ids for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def fitted(data: Data, inputs: Sequence[TensorSpec], place: Place) -> Data:
    """The data as the model takes it: numbers of a narrower type are widened, anything else that differs is refused.

    Raises SpecError naming the field and the input."""
    feeds = {}
    for wanted in inputs:
        value = data.feeds.get(wanted.name)
        if value is None:
            raise place.wrong(f"no array {wanted.name!r} for the model's input: it has {', '.join(data.feeds)}")
        fits = value.ndim == len(wanted.shape) and all(
            size in (-1, has) for size, has in zip(wanted.shape[1:], value.shape[1:], strict=True)
        )
        if not fits:
            raise place.wrong(
                f"array {wanted.name!r} has shape {list(value.shape)}, the model takes {list(wanted.shape)}"
            )
        dtype = np.dtype(DTYPES[wanted.datatype])
        if not np.can_cast(value.dtype, dtype, "same_kind"):
            raise place.wrong(f"array {wanted.name!r} is {value.dtype}, the model takes {dtype}")
        feeds[wanted.name] = np.ascontiguousarray(value, dtype)
    return data._replace(feeds=feeds)


def declared(inputs: Mapping[str, Input]) -> tuple[TensorSpec, ...]:
    """The inputs a spec declares, in protocol terms."""
    names = {np.dtype(dtype).name: datatype for datatype, dtype in DTYPES.items()}
    return tuple(TensorSpec(name, names[each.dtype], (-1, *each.shape)) for name, each in inputs.items())


def cycled(feeds: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """A batch of so many of the items, from the beginning again where they run out."""
    return {name: np.resize(value, (rows, *value.shape[1:])) for name, value in feeds.items()}
