import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import records
from policies.records import Load, Rejected, Scope, Timings
from tests.fleets import endpoint, load, worker


def keyed(good: bytes = b"s", scope: Scope | None = None):
    def verify(key: str, message: bytes, signature: bytes) -> Scope | None:
        return (scope or Scope()) if key == "k" and signature == good else None

    return verify


def test_a_worker_survives_the_wire():
    record = worker("a", endpoints=(endpoint(), endpoint(variant="int8", quality=0.99)))
    assert records.open_worker(records.seal_worker(record), None) == record
    assert records.open_worker(records.seal_worker(record, "k", lambda _: b"s"), keyed()) == record


def test_signatures_decide_once_keys_are_configured():
    record = worker("a")
    unsigned = records.seal_worker(record)
    forged = records.seal_worker(record, "k", lambda _: b"other")
    assert records.open_worker(unsigned, keyed()).kind == "unsigned"
    assert records.open_worker(forged, keyed()).kind == "signature"


@pytest.mark.parametrize("scope", [Scope(regions=("us-*",)), Scope(models=("other",)), Scope(workers=("b",))])
def test_a_key_registers_only_what_its_scope_covers(scope):
    sealed = records.seal_worker(worker("a", region="eu-west"), "k", lambda _: b"s")
    assert records.open_worker(sealed, keyed(scope=scope)).kind == "scope"


def test_unknown_fields_of_newer_workers_are_ignored():
    record = json.loads(msgspec.json.encode(worker("a"))) | {"from_the_future": 1}
    envelope = json.dumps({"record": json.dumps(record)}).encode()
    assert records.open_worker(envelope, None) == worker("a")


BAD_WORKERS = {
    "blank": b"",
    "not json": b"{",
    "array": b"[]",
    "no record": b"{}",
    "record not json": b'{"record": "x"}',
}
BAD_FIELDS = {
    "blank id": {"id": ""},
    "id with a separator": {"id": "a:b"},
    "id with a newline": {"id": "a\nb"},
    "blank region": {"region": ""},
    "no port": {"address": "host"},
    "userinfo in address": {"address": "user@host:80"},
    "negative price": {"price": {"mode": "marginal", "usd_per_hour": -1}},
    "huge price": {"price": {"mode": "marginal", "usd_per_hour": 1e308}},
    "unknown price": {"price": {"mode": "barter"}},
    "no endpoints": {"endpoints": []},
    "wrong type": {"seq": "one"},
    "negative power": {"power_watts": -1},
}


@pytest.mark.parametrize("raw", BAD_WORKERS.values(), ids=BAD_WORKERS.keys())
def test_garbage_is_rejected(raw):
    assert isinstance(records.open_worker(raw, None), Rejected)


@pytest.mark.parametrize("fields", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_bad_fields_are_rejected(fields):
    record = json.loads(msgspec.json.encode(worker("a"))) | fields
    raw = json.dumps({"record": json.dumps(record)}).encode()
    rejected = records.open_worker(raw, None)
    assert isinstance(rejected, Rejected)
    assert rejected.kind == "parse"


def test_nan_and_oversize_are_rejected():
    nan = records.seal_worker(worker("a")).replace(b"1.0", b"NaN", 1)
    assert records.open_worker(nan, None).kind == "parse"
    assert records.open_worker(b"x" * 10_000_000, None).kind == "size"
    assert records.decode_load(b"x" * 10_000_000).kind == "size"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b'{"worker":"a","boot":"b","seq":1,"waiting":-1}',
        b'{"worker":"a","boot":"b","seq":1,"backlog":1e308}',
        b'{"worker":"a","boot":"b","seq":-1}',
        b'{"worker":"a","boot":"b","seq":1,"kv_use":2}',
        b'{"worker":"","boot":"b","seq":1}',
    ],
)
def test_bad_loads_are_rejected(raw):
    assert isinstance(records.decode_load(raw), Rejected)


def test_a_load_survives_the_wire():
    assert records.decode_load(records.encode_load(load("a", 7, waiting=3))) == load("a", 7, waiting=3)
    assert records.decode_load(b'{"worker":"a","boot":"b","seq":1}') == Load(worker="a", boot="b", seq=1)


@given(st.binary(max_size=300))
def test_no_bytes_raise(raw):
    records.open_worker(raw, keyed())
    records.decode_load(raw)
    records.decode_timings(raw)


def test_keys_of_a_region_share_a_hash_tag():
    keys = [records.node_key("eu", "a"), records.load_key("eu", "a"), records.ids_key("eu"), records.rtt_key("eu", "g")]
    assert all(key.startswith("iso:{eu}:") for key in keys)
    assert len(set(keys)) == len(keys)


def test_timings_survive_the_wire():
    timings = Timings(queue=0.0015, prefill=0.25, accel=1.125)
    assert timings.encode() == "queue;dur=1.500, prefill;dur=250.000, accel;dur=1125.000"
    assert records.decode_timings(timings.encode().encode()) == timings


def test_timings_take_what_they_understand():
    header = b'cache;desc="hit", queue;dur=2, decode;dur=x, accel;dur=inf, prefill;dur=-1'
    assert records.decode_timings(header) == Timings(queue=0.002)
