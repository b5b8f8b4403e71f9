"""Open Inference Protocol v2: its REST paths, what routing needs of an inference request, and its metadata.

Protocol: github.com/open-inference/open-inference-protocol, `inference_rest.md`. A model *version* in a path is a
variant here, so that a client may pin one. Errors have the one shape of `openai/errors.py`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec
import orjson
from msgspec import Meta

from gateway.body import Body, Kind, too_deep
from policies.masks import NO_GRPC
from policies.reason import Reason
from policies.records import TensorSpec
from policies.request import Shed

if TYPE_CHECKING:
    from policies.fleet import Fleet

MAX_ITEMS = 1_000_000
"""Rows in one batch; far above what any engine takes at once."""
MAX_NAME = 256
HEADER_LENGTH = b"inference-header-content-length"
"""The field of the binary tensor extension: how many bytes of a body, or of an answer, are JSON."""


class _Input(msgspec.Struct):
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=2**53)]], Meta(max_length=16)]


class _Infer(msgspec.Struct):
    inputs: Annotated[list[_Input], Meta(min_length=1)]


_infer = msgspec.json.Decoder(_Infer)
"""Decodes the shapes and passes over the data, which is nearly all of the body."""


class _Described(_Infer):
    model_name: str
    model_version: str = ""


_described = msgspec.json.Decoder(_Described)
RPC = b"/inference.GRPCInferenceService/ModelInfer"
"""The path of the same over gRPC."""


class Target(NamedTuple):
    """What a path names: `/v2/models/MODEL[/versions/VERSION][/ACTION]`. Names are percent-decoded."""

    model: str
    version: str
    action: str
    """`infer`, `ready`, or "" for the metadata."""


def target(path: bytes) -> Target | None:
    """Take a model path apart; None when it is not one."""
    parts = path.partition(b"?")[0].split(b"/")
    if parts[:3] != [b"", b"v2", b"models"] or len(parts) < 4:
        return None
    version = ""
    rest = parts[4:]
    if rest[:1] == [b"versions"] and len(rest) > 1:
        version, rest = _decoded(rest[1]), rest[2:]
        if not version:
            return None
    action = rest[0].decode("latin-1") if rest else ""
    model = _decoded(parts[3])
    if not model or len(rest) > 1 or action not in ("", "infer", "ready") or rest == [b""]:
        return None
    return Target(model, version, action)


def _decoded(segment: bytes) -> str:
    """Percent-decode one segment; "" when it is not UTF-8 text of a sane length."""
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return ""
    return name if len(name) <= MAX_NAME else ""


def read(path: bytes, raw: bytes, length: bytes | None = None) -> Body | Shed:
    """Read an inference request: the model from its path, the batch from its first input. `length` is what the header
    says of how much is JSON, where tensors follow it as bytes."""
    named = target(path)
    if named is None or named.action != "infer":
        return Shed(Reason.NOT_FOUND)
    size = len(raw)
    if length is not None:
        if not length.isdigit() or int(length) > size:
            detail = "This header is the length of the JSON, in bytes of the body."
            return Shed(Reason.BAD_REQUEST, detail, HEADER_LENGTH.decode())
        raw = raw[: int(length)]
    try:
        infer = _infer.decode(raw)
    except msgspec.ValidationError:
        return Shed(Reason.BAD_REQUEST, "Each input needs a `shape`, an array of whole numbers from 0.", "inputs")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Shed(Reason.INVALID_JSON)
    if too_deep(raw):
        return Shed(Reason.INVALID_JSON, "The body is nested too deeply.")
    return body(named.model, named.version, infer.inputs[0].shape, size)


def read_described(path: bytes, raw: bytes) -> Body | Shed:
    """A ModelInferRequest as protobuf's JSON has it: what is to be explained of one that would come by gRPC."""
    try:
        infer = _described.decode(raw)
    except msgspec.DecodeError as error:
        return Shed(Reason.BAD_REQUEST, f"{error}.", "model_name")
    return body(infer.model_name, infer.model_version, infer.inputs[0].shape, len(raw), grpc=True)


def body(model: str, version: str, shape: Sequence[int], size: int, *, grpc: bool = False) -> Body | Shed:
    """What routing uses of an inference request: `shape` is its first input's, whose first dimension is the batch."""
    items = max(shape[0], 1) if shape else 1
    if items > MAX_ITEMS:
        return Shed(Reason.BAD_REQUEST, f"A batch takes up to {MAX_ITEMS} rows.", "inputs")
    variants = (version,) if version else ()
    return Body(kind=Kind.TENSOR, model=model, bytes=size, items=items, variants=variants, grpc=grpc)


def upstream_path(path: bytes, served_name: str | None) -> bytes:
    """The path to send to a worker: without the version, which travels as the variant, and by the engine's own name.

    The same object when nothing changes. `path` must be one `read` accepted.
    """
    named = target(path)
    if named is None or not (named.version or (served_name and served_name != named.model)):
        return path
    return b"/v2/models/%b/infer" % quote(served_name or named.model, safe="").encode()


def version() -> str:
    return importlib.metadata.version("isochrone")


def metadata(path: bytes, fleet: Fleet) -> bytes | Shed:
    """Answer a GET from what the fleet registered; no worker is asked."""
    plain = path.partition(b"?")[0]
    if plain == b"/v2":
        return orjson.dumps({"name": "isochrone", "version": version(), "extensions": ["binary_tensor_data"]})
    if plain == b"/v2/health/live":
        return b'{"live":true}'
    if plain == b"/v2/health/ready":
        return b'{"ready":true}' if fleet.models() else Shed(Reason.NO_CAPACITY)
    named = target(plain)
    if named is None or named.action == "infer":
        return Shed(Reason.METHOD_NOT_ALLOWED if named else Reason.NOT_FOUND)
    found = model(named.model, named.version, fleet)
    if isinstance(found, Shed):
        return found
    return orjson.dumps({"name": named.model, "ready": True} if named.action == "ready" else msgspec.to_builtins(found))


class Model(msgspec.Struct, frozen=True):
    """A model's metadata, as both REST and gRPC say it."""

    name: str
    versions: list[str]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def model(name: str, version: str, fleet: Fleet, *, grpc: bool = False) -> Model | Shed:
    """What the fleet registered of a model, or of one of its variants. What tensors it takes is as the first node says
    that says it: variants of one model differ in their builds, not in these."""
    nodes = [node for node in fleet.nodes(name) if version in ("", node.endpoint.variant)]
    if not nodes:
        return Shed(Reason.MODEL_NOT_FOUND)
    if grpc and all(node.worker.grpc_address is None for node in nodes):
        return Shed(Reason.NO_MATCHING_NODE, NO_GRPC)
    told = next((node.endpoint for node in nodes if node.endpoint.inputs), nodes[0].endpoint)
    return Model(
        name=name,
        versions=sorted({node.endpoint.variant for node in nodes}),
        platform=",".join(sorted({node.worker.engine for node in nodes})),
        inputs=told.inputs,
        outputs=told.outputs,
    )
