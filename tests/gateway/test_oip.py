import random

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import Body, Kind
from gateway.oip import MAX_ITEMS, RPC, Target, metadata, model, read, read_described, target, upstream_path
from policies.fleet import Fleet
from policies.reason import Reason
from policies.records import Curve, Endpoint, MarginalPrice, TensorSpec, Worker
from policies.request import Shed, WorkerSeen

INFER = b"/v2/models/digits/infer"


def tensor(*shape: int) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [0.5] * 64}]})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v2/models/m", Target("m", "", "")),
        (b"/v2/models/m/ready", Target("m", "", "ready")),
        (b"/v2/models/m/infer", Target("m", "", "infer")),
        (b"/v2/models/m/infer?a=b", Target("m", "", "infer")),
        (b"/v2/models/m/versions/int8", Target("m", "int8", "")),
        (b"/v2/models/m/versions/int8/infer", Target("m", "int8", "infer")),
        (b"/v2/models/org%2Fm%20x/infer", Target("org/m x", "", "infer")),
        (b"/v2/models/versions/infer", Target("versions", "", "infer")),
    ],
)
def test_paths(path, expected):
    assert target(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"/v2",
        b"/v2/models",
        b"/v2/models/",
        b"/v2/models//infer",
        b"/v2/models/m/",
        b"/v2/models/m/generate",
        b"/v2/models/m/infer/x",
        b"/v2/models/m/versions",
        b"/v2/models/m/versions//infer",
        b"/v2/models/%ff/infer",
        b"/v2/models/" + b"m" * 257,
        b"/v1/models/m/infer",
    ],
)
def test_other_paths_are_none_of_ours(path):
    assert target(path) is None


@pytest.mark.parametrize(("shape", "items"), [((8, 64), 8), ((1,), 1), ((), 1), ((0, 3), 1)])
def test_items_are_the_first_inputs_leading_dimension(shape, items):
    body = read(INFER, tensor(*shape))
    assert isinstance(body, Body)
    assert (body.kind, body.model, body.items, body.variants) == (Kind.TENSOR, "digits", items, ())
    assert (body.prompt_tokens, body.bytes) == (0, len(tensor(*shape)))


def test_a_version_pins_the_variant():
    body = read(b"/v2/models/digits/versions/int8/infer", tensor(1))
    assert isinstance(body, Body)
    assert body.variants == ("int8",)


@pytest.mark.parametrize(
    ("path", "raw", "reason"),
    [
        (b"/v2/models/digits", tensor(1), Reason.NOT_FOUND),
        (b"/v2/elsewhere", tensor(1), Reason.NOT_FOUND),
        (INFER, b"", Reason.INVALID_JSON),
        (INFER, b"{", Reason.INVALID_JSON),
        (INFER, b"{}", Reason.BAD_REQUEST),
        (INFER, b"[]", Reason.BAD_REQUEST),
        (INFER, b'{"inputs":[]}', Reason.BAD_REQUEST),
        (INFER, b'{"inputs":[{"shape":[-1]}]}', Reason.BAD_REQUEST),
        (INFER, b'{"inputs":[{"shape":"1"}]}', Reason.BAD_REQUEST),
        (INFER, tensor(MAX_ITEMS + 1), Reason.BAD_REQUEST),
        (INFER, b'{"inputs":[{"shape":[1],"data":' + b"[" * 70 + b"]" * 70 + b"}]}", Reason.INVALID_JSON),
        (INFER, b'{"inputs":' + b"[" * 100_000, Reason.BAD_REQUEST),
        (INFER, b'{"x":' + b"[" * 100_000, Reason.INVALID_JSON),
    ],
)
def test_refusals(path, raw, reason):
    shed = read(path, raw)
    assert isinstance(shed, Shed)
    assert shed.reason is reason


def test_the_path_sent_to_a_worker():
    assert upstream_path(INFER, None) is INFER
    assert upstream_path(INFER, "digits") is INFER
    assert upstream_path(b"/v2/models/digits/versions/int8/infer", None) == INFER
    assert upstream_path(INFER, "org/digits v2") == b"/v2/models/org%2Fdigits%20v2/infer"


TENSORS = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
}


@pytest.fixture
def fleet() -> Fleet:
    fleet = Fleet(random.Random(1))
    told = {side: tuple(TensorSpec(**spec) for spec in specs) for side, specs in TENSORS.items()}
    endpoints = tuple(
        Endpoint(model="digits", variant=v, quality=1.0, curve=Curve(0.01), **told) for v in ("int8", "fp32")
    )
    price = MarginalPrice(1.0)
    seen = Worker(id="w", boot="b", seq=1, address="10.1.2.3:1", region="eu", price=price, endpoints=endpoints)
    fleet.apply(WorkerSeen(seen), 0.0)
    return fleet


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v2/health/live", {"live": True}),
        (b"/v2/health/ready", {"ready": True}),
        (b"/v2/models/digits/ready", {"name": "digits", "ready": True}),
        (b"/v2/models/digits/versions/int8/ready", {"name": "digits", "ready": True}),
        (b"/v2/models/digits", {"name": "digits", "versions": ["fp32", "int8"], "platform": "isochrone", **TENSORS}),
        (
            b"/v2/models/digits/versions/int8",
            {"name": "digits", "versions": ["int8"], "platform": "isochrone", **TENSORS},
        ),
    ],
)
def test_metadata(fleet, path, expected):
    assert orjson.loads(metadata(path, fleet)) == expected


def test_server_metadata(fleet):
    server = orjson.loads(metadata(b"/v2", fleet))
    assert (server["name"], server["extensions"]) == ("isochrone", ["binary_tensor_data"])
    assert server["version"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"/v2/models/nope", Reason.MODEL_NOT_FOUND),
        (b"/v2/models/digits/versions/int4", Reason.MODEL_NOT_FOUND),
        (b"/v2/models/digits/infer", Reason.METHOD_NOT_ALLOWED),
        (b"/v2/nope", Reason.NOT_FOUND),
    ],
)
def test_metadata_refusals(fleet, path, reason):
    shed = metadata(path, fleet)
    assert isinstance(shed, Shed)
    assert shed.reason is reason


def test_an_empty_fleet_is_live_but_not_ready():
    empty = Fleet(random.Random(1))
    assert metadata(b"/v2/health/live", empty) == b'{"live":true}'
    shed = metadata(b"/v2/health/ready", empty)
    assert isinstance(shed, Shed)
    assert shed.reason is Reason.NO_CAPACITY


@given(
    st.binary(max_size=60) | st.text('{}[]":,\\ inputshape019-', max_size=60).map(str.encode), st.binary(max_size=30)
)
def test_any_bytes_are_read_or_refused(raw, tail):
    assert isinstance(read(INFER, raw), Body | Shed)
    assert isinstance(read(INFER, b'{"inputs":[{"shape":[1],"data":' + raw), Body | Shed)
    assert isinstance(read(b"/v2/models/" + tail, tensor(1)), Body | Shed)


def test_a_model_that_grpc_does_not_reach_is_known_and_said_to_be_elsewhere(fleet):
    assert model("digits", "", fleet).inputs[0].name == "pixels"
    shed = model("digits", "", fleet, grpc=True)
    assert (shed.reason, "POST it to /v2/models" in shed.detail) == (Reason.NO_MATCHING_NODE, True)
    (record,) = (state.record for state in fleet.workers.values())
    fleet.apply(WorkerSeen(msgspec.structs.replace(record, seq=2, grpc_address="10.1.2.3:2")), 1.0)
    assert model("digits", "fp32", fleet, grpc=True).versions == ["fp32"]


def test_tensors_may_follow_the_json_as_bytes():
    head = tensor(3)
    body = read(INFER, head + b"\x00\xff", str(len(head)).encode())
    assert (body.items, body.bytes) == (3, len(head) + 2)
    assert read(INFER, head + b"\x00\xff").reason is Reason.INVALID_JSON
    for length in (b"", b"-1", b"1e3", str(len(head) + 1).encode()):
        shed = read(INFER, head, length)
        assert (shed.reason, shed.param) == (Reason.BAD_REQUEST, "inference-header-content-length")


def test_a_described_grpc_request_is_read_like_the_message():
    raw = orjson.dumps({"model_name": "digits", "model_version": "int8", "inputs": [{"shape": [5, 64]}]})
    body = read_described(RPC, raw)
    assert (body.model, body.variants, body.items, body.grpc) == ("digits", ("int8",), 5, True)
    assert read_described(RPC, b'{"inputs":[{"shape":[1]}]}').param == "model_name"
