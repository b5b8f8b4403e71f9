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


METADATA = [
    "169.254.169.254:80",
    "[::ffff:a9fe:a9fe]:80",
    "[64:ff9b::a9fe:a9fe]:80",
    "[fe80::1]:80",
    "[fd00:ec2::254]:80",
    "2852039166:80",
    "0xa9fea9fe:80",
    "0251.0376.0251.0376:80",
    "169.254.43518:80",
    "169.254.169.254.:80",
]
"""The addresses where clouds hand out credentials, in every form that some resolver understands."""


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("scope", [Scope(), Scope(addresses=("10.0.0.0/8",))])
def test_no_worker_stands_at_a_link_local_address(address, scope):
    sealed = records.seal_worker(worker("a", address=address), "k", lambda _: b"s")
    assert records.open_worker(sealed, keyed(scope=scope)).kind == "scope"
    assert records.open_worker(sealed, None).kind == "scope"


def test_a_link_local_worker_may_be_listed():
    sealed = records.seal_worker(worker("a", address="169.254.7.7:80"), "k", lambda _: b"s")
    assert not isinstance(records.open_worker(sealed, keyed(scope=Scope(addresses=("169.254.7.0/24",)))), Rejected)


@pytest.mark.parametrize("address", ["10.9.9.9:1", "127.0.0.1:1", "[::1]:1", "worker-1:9000", "gpu.example.com:9000"])
def test_without_a_list_a_worker_stands_anywhere(address):
    sealed = records.seal_worker(worker("a", address=address), "k", lambda _: b"s")
    assert not isinstance(records.open_worker(sealed, keyed()), Rejected)


LISTED = Scope(addresses=("10.1.0.0/16", "192.0.2.7:9000", "192.0.2.128/25:9001", "fd01::/16", "[2001:db8::/32]:9000"))


@pytest.mark.parametrize(
    ("address", "covered"),
    {
        "10.1.2.3:1": True,
        "10.2.0.1:1": False,
        "192.0.2.7:9000": True,
        "192.0.2.7:9001": False,
        "192.0.2.129:9001": True,
        "[fd01::1]:5": True,
        "[2001:db8::1]:9000": True,
        "[2001:db8::1]:22": False,
        "[::ffff:a01:203]:1": True,
        "[::ffff:a02:1]:1": False,
        "[64:ff9b::a02:1]:1": False,
        "[::1]:1": False,
        "0.0.0.0:1": False,
        "127.0.0.1:1": False,
        "gpu.example.com:9000": False,
        "localhost:9000": False,
        "167837955:1": False,  # 10.1.2.3 for inet_aton
        "012.1.2.3:1": False,
        "0x0a010203:1": False,
        "10.1.515:1": False,
    }.items(),
)
def test_listed_addresses_are_the_only_ones(address, covered):
    sealed = records.seal_worker(worker("a", address=address), "k", lambda _: b"s")
    opened = records.open_worker(sealed, keyed(scope=LISTED))
    assert isinstance(opened, Rejected) is not covered
    assert covered or opened.kind == "scope"


@pytest.mark.parametrize(
    "address", ["10.1.2.3@evil.example:80", "user:pw@10.1.2.3:80", "[::ffff:10.1.2.3]:80", "10.1.2.3"]
)
def test_userinfo_and_mixed_notation_are_no_addresses(address):
    record = json.loads(msgspec.json.encode(worker("a"))) | {"address": address}
    envelope = json.dumps({"record": json.dumps(record)}).encode()
    assert records.open_worker(envelope, None).kind == "parse"


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


def test_the_batch_is_told_and_not_read():
    timings = Timings(queue=0.0015, prefill=0.25, decode=0.0, accel=1.125)
    told = msgspec.structs.replace(timings, batch=8).encode()
    assert told == f"{timings.encode()}, batch;desc=8"
    assert records.decode_timings(told.encode()) == timings


def test_timings_take_what_they_understand():
    header = b'cache;desc="hit", queue;dur=2, decode;dur=x, accel;dur=inf, prefill;dur=-1'
    assert records.decode_timings(header) == Timings(queue=0.002)


def test_a_grpc_address_needs_a_key_for_it_too():
    for address, covered in (("10.1.2.3:8001", True), ("192.0.2.7:8001", False), ("169.254.169.254:80", False)):
        for scope in (LISTED, records.Scope()):
            node = msgspec.structs.replace(worker("a", address="10.1.2.3:9000"), grpc_address=address)
            opened = records.open_worker(records.seal_worker(node, "k", lambda _: b"s"), keyed(scope=scope))
            allowed = covered or (scope is not LISTED and not address.startswith("169."))
            assert isinstance(opened, Rejected) is not allowed, (address, scope)


def test_records_from_before_grpc_still_parse():
    record = json.loads(msgspec.json.encode(worker("a")))
    del record["grpc_address"]
    for each in record["endpoints"]:
        del each["inputs"], each["outputs"]
    opened = records.open_worker(json.dumps({"record": json.dumps(record)}).encode(), None)
    assert opened == worker("a")
    assert opened.grpc_address is None
