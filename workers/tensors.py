"""Tensor requests, whichever surface they came by: every input checked, split into jobs, and their outputs joined.

Each tensor is checked against the engine's own description before it is queued, and what is wrong with it is said by
its name. oip.py reads JSON, rpc.py reads protobuf; the arrays that come of both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from workers.catalog import Entry
from workers.queue import Job, Refused, bad

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


class Part(NamedTuple):
    """An input as its surface has it, and its bytes where they came apart. A surface adds `array` and it is `Given`."""

    tensor: Any
    """With `name`, `datatype` and `shape`."""
    raw: bytes | memoryview | None = None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def datatype(self) -> str:
        return self.tensor.datatype

    @property
    def shape(self) -> Sequence[int]:
        return self.tensor.shape


class Given(Protocol):
    """One input as it was sent."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    def array(self, dtype: np.dtype[Any]) -> np.ndarray | str:
        """Its elements in its shape, or what is wrong with them. Datatype and shape have been checked."""
        ...


def read_feeds(given: Sequence[Given], entry: Entry) -> dict[str, np.ndarray] | Refused:
    """The engine's inputs, every one checked; the refusal names the tensor."""
    feeds: dict[str, np.ndarray] = {}
    specs = {spec.name: spec for spec in entry.inputs}
    for i, tensor in enumerate(given):
        field, spec = f"inputs[{i}]", specs.get(tensor.name)
        if spec is None:
            return bad(f"input {tensor.name!r:.80} is unknown: the model takes {', '.join(specs)}", field)
        if tensor.name in feeds:
            return bad(f"input {tensor.name!r} is given twice", field)
        value = read_tensor(tensor, spec)
        if isinstance(value, str):
            return bad(f"input {tensor.name!r} {value}", field)
        feeds[tensor.name] = value
    for name in specs:
        if name not in feeds:
            return bad(f"input {name!r} is missing", "inputs")
    rows = {name: len(value) for name, value in feeds.items()}
    if len(set(rows.values())) > 1:
        return bad(f"inputs have different batches: {rows}", "inputs")
    return feeds


def read_tensor(tensor: Given, spec: Any) -> np.ndarray | str:
    """One input as an array, or what is wrong with it."""
    if tensor.datatype != spec.datatype:
        return f"must be {spec.datatype}, not {tensor.datatype!r:.20}"
    shape = tensor.shape
    fits = len(shape) == len(spec.shape) and all(
        size >= 1 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        return f"must have shape {list(spec.shape)} (-1: any size from 1), not {list(shape)!s:.80}"
    return tensor.array(np.dtype(DTYPES[spec.datatype]))


def shaped(given: np.ndarray, shape: Sequence[int], dtype: np.dtype[Any], where: str) -> np.ndarray | str:
    """Numbers as an array of this type and shape; floats for integers and numbers out of range don't pass. `where` is
    the field they came in."""
    datatype = NAMES[dtype]
    if given.dtype.kind not in {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]:
        return f"has `{where}` that is not {datatype}"
    if given.size != math.prod(shape):
        return f"has {given.size} numbers in `{where}`, its shape {list(shape)} means {math.prod(shape)}"
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if given.min() < bounds.min or given.max() > bounds.max:
            return f"has a number in `{where}` outside {datatype}"
    with np.errstate(over="ignore"):
        value = given.astype(dtype).reshape(shape)
    return value if np.isfinite(value).all() else f"has a number in `{where}` that {datatype} cannot hold"


NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def from_bytes(raw: bytes | memoryview, shape: Sequence[int], dtype: np.dtype[Any], where: str) -> np.ndarray | str:
    """Little-endian elements in row-major order as an array, without copying them. Infinities and NaNs pass: whoever
    sends bits means them."""
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        return f"has {len(raw)} bytes in `{where}`, its shape {list(shape)} of {NAMES[dtype]} means {wanted}"
    if dtype.kind == "b" and np.frombuffer(raw, np.uint8).max() > 1:
        return f"has a byte in `{where}` that is neither 0 nor 1"
    return np.frombuffer(raw, dtype).reshape(shape)


def chosen(names: Sequence[str], entry: Entry) -> list[str] | Refused:
    """The outputs to return: those asked for, or all."""
    known = [spec.name for spec in entry.outputs]
    for name in names:
        if name not in known:
            return bad(f"output {name!r:.80} is unknown: the model gives {', '.join(known)}", "outputs")
    return list(names) or known


def jobs(feeds: Mapping[str, np.ndarray], entry: Entry, arrived: float, deadline: float) -> list[Job]:
    """One job per `max_batch` rows, so that no request holds the accelerator for long."""
    rows, size = len(next(iter(feeds.values()))), entry.endpoint.max_batch
    return [
        Job(
            entry.lane,
            {name: value[start : start + size] for name, value in feeds.items()},
            arrived=arrived,
            deadline=deadline,
            items=min(size, rows - start),
        )
        for start in range(0, rows, size)
    ]


def joined(name: str, results: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """One output, its rows from all jobs."""
    parts = [result[name] for result in results]
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def datatype(name: str, entry: Entry) -> str:
    """What an output consists of, by the protocol's name."""
    return next(spec.datatype for spec in entry.outputs if spec.name == name)
