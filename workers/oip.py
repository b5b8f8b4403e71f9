"""The Open Inference Protocol v2 over REST for tensor models: health, metadata, inference.

A model's versions are its variants. Every tensor is checked against the engine's own description before it is queued,
and what is wrong with it is said by its name. The binary tensor extension is refused, not misread.
Specification: github.com/kserve/open-inference-protocol, open_inference_rest.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from aiohttp import web

from policies.reason import Reason
from workers.batcher import Batcher
from workers.catalog import TENSOR, Catalog, Entry
from workers.http import Call, Reply, Route, invalid, json_reply, read_body
from workers.queue import Job, Refused
from workers.timings import timings

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


class Tensor(msgspec.Struct):
    """One input as it is sent."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct):
    """One output asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(msgspec.Struct):
    """`POST /v2/models/NAME/infer`."""

    inputs: list[Tensor]
    id: str = ""
    outputs: list[Wanted] = []
    parameters: dict[str, Any] | None = None


class OpenInference:
    """Routes under /v2."""

    def __init__(self, catalog: Catalog, batcher: Batcher) -> None:
        self._catalog = catalog
        self._batcher = batcher

    def routes(self) -> list[Route]:
        model = "/v2/models/{model:[^/]+}"
        version = model + "/versions/{version:[^/]+}"
        return [
            Route("GET", "/v2", self.server),
            Route("GET", "/v2/health/live", self.live),
            Route("GET", "/v2/health/ready", self.ready),
            *(Route("GET", path, self.model) for path in (model, version)),
            *(Route("GET", path + "/ready", self.model_ready) for path in (model, version)),
            *(Route("POST", path + "/infer", self.infer) for path in (model, version)),
        ]

    async def server(self, request: web.Request, call: Call) -> Reply:
        return json_reply(call, orjson.dumps({"name": "isochrone", "version": "2", "extensions": []}))

    async def live(self, request: web.Request, call: Call) -> Reply:
        return json_reply(call, b'{"live":true}')

    async def ready(self, request: web.Request, call: Call) -> Reply:
        if self._batcher.draining:
            return Refused(Reason.DRAINING, "This worker is shutting down.")
        return json_reply(call, b'{"ready":true}')

    async def model_ready(self, request: web.Request, call: Call) -> Reply:
        entry = self._find(request, call)
        if isinstance(entry, Refused):
            return entry
        if self._batcher.draining:
            return Refused(Reason.DRAINING, "This worker is shutting down.")
        return json_reply(call, orjson.dumps({"name": entry.endpoint.model, "ready": True}))

    async def model(self, request: web.Request, call: Call) -> Reply:
        entry = self._find(request, call)
        if isinstance(entry, Refused):
            return entry
        reply = {
            "name": entry.endpoint.model,
            "versions": list(self._catalog.models[entry.endpoint.model]),
            "platform": "isochrone",
            "inputs": [describe(spec) for spec in entry.inputs],
            "outputs": [describe(spec) for spec in entry.outputs],
        }
        return json_reply(call, orjson.dumps(reply))

    async def infer(self, request: web.Request, call: Call) -> Reply:
        entry = self._find(request, call)
        if isinstance(entry, Refused):
            return entry
        raw = await read_body(request)
        if isinstance(raw, Refused):
            return raw
        if "inference-header-content-length" in request.headers:
            return Refused(Reason.BAD_REQUEST, "Binary tensors are not supported: send `data` as JSON.", "inputs")
        try:
            body = msgspec.json.decode(raw, type=InferBody)
        except msgspec.MsgspecError as error:
            return invalid(error)
        outputs = chosen(body, entry)
        if isinstance(outputs, Refused):
            return outputs
        feeds = read_feeds(body, entry)
        if isinstance(feeds, Refused):
            return feeds
        jobs = self._jobs(feeds, entry, call)
        results = await self._batcher.results(jobs)
        if isinstance(results, Refused):
            return results
        reply = {
            "model_name": entry.endpoint.model,
            "model_version": entry.endpoint.variant,
            "id": body.id or call.id,
            "outputs": [written(name, [result[name] for result in results], entry) for name in outputs],
        }
        return json_reply(call, orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY), timings(jobs))

    def _find(self, request: web.Request, call: Call) -> Entry | Refused:
        """The header names the variant a gateway chose; without it the path's version does."""
        variant = call.variant or request.match_info.get("version", "")
        return self._catalog.find(request.match_info["model"], variant, TENSOR)

    def _jobs(self, feeds: dict[str, np.ndarray], entry: Entry, call: Call) -> list[Job]:
        """One job per `max_batch` rows, so that no request holds the accelerator for long."""
        rows, size = len(next(iter(feeds.values()))), entry.endpoint.max_batch
        return [
            Job(
                entry.lane,
                {name: value[start : start + size] for name, value in feeds.items()},
                arrived=call.arrived,
                deadline=call.deadline,
                items=min(size, rows - start),
            )
            for start in range(0, rows, size)
        ]


def describe(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def chosen(body: InferBody, entry: Entry) -> list[str] | Refused:
    """The outputs to return: those asked for, or all."""
    known = [spec.name for spec in entry.outputs]
    names = [wanted.name for wanted in body.outputs] or known
    for name in names:
        if name not in known:
            message = f"output {name!r} is unknown: the model gives {', '.join(known)}"
            return Refused(Reason.BAD_REQUEST, message, "outputs")
    if any((wanted.parameters or {}).get("binary_data") for wanted in body.outputs):
        return Refused(Reason.BAD_REQUEST, "Binary outputs are not supported: they come as JSON.", "outputs")
    return names


def read_feeds(body: InferBody, entry: Entry) -> dict[str, np.ndarray] | Refused:
    """The engine's inputs, every one checked; the refusal names the tensor."""
    feeds: dict[str, np.ndarray] = {}
    specs = {spec.name: spec for spec in entry.inputs}
    for i, tensor in enumerate(body.inputs):
        field, spec = f"inputs[{i}]", specs.get(tensor.name)
        if spec is None:
            return _bad(f"input {tensor.name!r:.80} is unknown: the model takes {', '.join(specs)}", field)
        if tensor.name in feeds:
            return _bad(f"input {tensor.name!r} is given twice", field)
        value = read_tensor(tensor, spec)
        if isinstance(value, str):
            return _bad(f"input {tensor.name!r} {value}", field)
        feeds[tensor.name] = value
    for name in specs:
        if name not in feeds:
            return _bad(f"input {name!r} is missing", "inputs")
    rows = {name: len(value) for name, value in feeds.items()}
    if len(set(rows.values())) > 1:
        return _bad(f"inputs have different batches: {rows}", "inputs")
    return feeds


def read_tensor(tensor: Tensor, spec: Any) -> np.ndarray | str:
    """One input as an array, or what is wrong with it."""
    if "binary_data_size" in (tensor.parameters or {}):
        return "is binary, which is not supported: send `data` as JSON"
    if tensor.datatype != spec.datatype:
        return f"must be {spec.datatype}, not {tensor.datatype!r:.20}"
    shape = tensor.shape
    fits = len(shape) == len(spec.shape) and all(
        size >= 1 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        return f"must have shape {list(spec.shape)} (-1: any size from 1), not {shape!s:.80}"
    return _fill(tensor.data, shape, DTYPES[spec.datatype], spec.datatype)


def _fill(data: list[Any], shape: Sequence[int], dtype: Any, datatype: str) -> np.ndarray | str:
    """Numbers, flat or nested, as an array of this shape; floats for integers and numbers out of range don't pass."""
    try:
        given = np.array(data)
    except ValueError:
        return "has `data` whose nesting is ragged"
    if given.dtype.kind not in {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[np.dtype(dtype).kind]:
        return f"has `data` that is not {datatype}"
    if given.size != math.prod(shape):
        return f"has {given.size} numbers in `data`, its shape {list(shape)} means {math.prod(shape)}"
    if np.dtype(dtype).kind in "iu":
        bounds = np.iinfo(dtype)
        if given.min() < bounds.min or given.max() > bounds.max:
            return f"has a number in `data` outside {datatype}"
    with np.errstate(over="ignore"):
        value = given.astype(dtype).reshape(shape)
    return value if np.isfinite(value).all() else f"has a number in `data` that {datatype} cannot hold"


def written(name: str, parts: Sequence[np.ndarray], entry: Entry) -> dict[str, Any]:
    """One output tensor, its rows from all jobs, data flat as most clients expect."""
    value = parts[0] if len(parts) == 1 else np.concatenate(parts)
    datatype = next(spec.datatype for spec in entry.outputs if spec.name == name)
    data = np.ascontiguousarray(value).reshape(-1)
    if data.dtype == np.float16:
        data = data.astype(np.float32)  # JSON writers know no half precision; every value is kept exactly
    return {"name": name, "datatype": datatype, "shape": list(value.shape), "data": data}


def _bad(message: str, field: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, field)
