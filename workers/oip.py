"""The Open Inference Protocol v2 over REST for tensor models: health, metadata, inference.

A model's versions are its variants. Tensors come as JSON or, by the protocol's binary extension, as bytes behind it
(`Inference-Header-Content-Length`): `tritonclient` sends and asks for those unless told otherwise. What they are
checked against is tensors.py's; the same protocol over gRPC is rpc.py's.
Specification: github.com/kserve/open-inference-protocol, open_inference_rest.yaml.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import orjson
from aiohttp import web

from policies.reason import Reason
from workers import tensors
from workers.batcher import Batcher
from workers.catalog import TENSOR, Catalog, Entry
from workers.http import Call, Reply, Route, invalid, json_reply, read_body
from workers.queue import Refused, bad
from workers.refusal import answers
from workers.timings import timings

HEADER_LENGTH = "inference-header-content-length"
"""How many bytes of a body are JSON; the binary tensors follow in the order of the JSON's."""


class Tensor(msgspec.Struct):
    """One input as it is sent."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
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


class Sent(tensors.Part):
    """An input of a JSON body."""

    __slots__ = ()

    def array(self, dtype: np.dtype[Any]) -> np.ndarray | str:
        """Numbers, flat or nested, or the bytes behind the JSON."""
        if self.raw is not None:
            return tensors.from_bytes(self.raw, self.shape, dtype, "binary data")
        if self.tensor.data is None:
            return "has neither `data` nor `parameters.binary_data_size`"
        try:
            given = np.array(self.tensor.data)
        except ValueError:
            return "has `data` whose nesting is ragged"
        return tensors.shaped(given, self.shape, dtype, "data")


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
        return json_reply(call, orjson.dumps({"name": "isochrone", "version": "2", "extensions": list(EXTENSIONS)}))

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
        read = read_infer(raw, request.headers.get(HEADER_LENGTH))
        if isinstance(read, Refused):
            return read
        body, sent = read
        outputs = tensors.chosen([wanted.name for wanted in body.outputs], entry)
        if isinstance(outputs, Refused):
            return outputs
        feeds = tensors.read_feeds(sent, entry)
        if isinstance(feeds, Refused):
            return feeds
        jobs = tensors.jobs(feeds, entry, call.arrived, call.deadline)
        results = await answers(self._batcher, jobs, call.expected_wait)
        if isinstance(results, Refused):
            return results
        reply = {
            "model_name": entry.endpoint.model,
            "model_version": entry.endpoint.variant,
            "id": body.id or call.id,
        }
        values = {name: tensors.joined(name, results) for name in outputs}
        content, length = written(reply, values, binary(body), entry)
        response = json_reply(call, content, timings(jobs))
        if length is not None:
            response.content_type = "application/octet-stream"
            response.headers[HEADER_LENGTH] = str(length)
        return response

    def _find(self, request: web.Request, call: Call) -> Entry | Refused:
        """The header names the variant a gateway chose; without it the path's version does."""
        variant = call.variant or request.match_info.get("version", "")
        return self._catalog.find(request.match_info["model"], variant, TENSOR)


EXTENSIONS = ("binary_tensor_data",)
"""By their names in the protocol."""


def describe(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def read_infer(raw: bytes, length: str | None) -> tuple[InferBody, list[Sent]] | Refused:
    """The JSON of a body, and its inputs with the bytes that follow it. `length` is the header's value."""
    if length is not None and not (length.isdigit() and int(length) <= len(raw)):
        return bad("this header is the length of the JSON, in bytes of the body", HEADER_LENGTH)
    end = len(raw) if length is None else int(length)
    try:
        body = msgspec.json.decode(memoryview(raw)[:end], type=InferBody)
    except msgspec.MsgspecError as error:
        return invalid(error)
    rest, sent = memoryview(raw)[end:], []
    for i, tensor in enumerate(body.inputs):
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            sent.append(Sent(tensor))
        elif isinstance(size, int) and 0 <= size <= len(rest):
            sent.append(Sent(tensor, rest[:size]))
            rest = rest[size:]
        else:
            message = f"input {tensor.name!r:.80} has no `binary_data_size` bytes behind the JSON: send {HEADER_LENGTH}"
            return bad(message, f"inputs[{i}]")
    if rest:
        return bad(f"{len(rest)} bytes behind the JSON belong to no input", "inputs")
    return body, sent


def binary(body: InferBody) -> frozenset[str] | None:
    """The outputs to be written as bytes; None for all of them."""
    if body.outputs:
        wants = ((wanted.name, wanted.parameters or {}) for wanted in body.outputs)
        return frozenset(name for name, parameters in wants if parameters.get("binary_data") is True)
    return None if (body.parameters or {}).get("binary_data_output") is True else frozenset()


def written(
    reply: dict[str, Any], values: dict[str, np.ndarray], raw: frozenset[str] | None, entry: Entry
) -> tuple[bytes, int | None]:
    """The answer's body, and how much of it is JSON where bytes follow."""
    outputs, parts = [], []
    for name, value in values.items():
        output: dict[str, Any] = {"name": name, "datatype": tensors.datatype(name, entry), "shape": list(value.shape)}
        if raw is None or name in raw:
            parts.append(value.tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = numbers(value)
        outputs.append(output)
    head = orjson.dumps({**reply, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((head, *parts)), len(head) if parts else None


def numbers(value: np.ndarray) -> np.ndarray:
    """Flat, as most clients expect; JSON writers know no half precision, of which single keeps every value exactly."""
    data = value.reshape(-1)
    return data.astype(np.float32) if data.dtype == np.float16 else data
