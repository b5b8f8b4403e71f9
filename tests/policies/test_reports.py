"""What answers say of their worker's load: our own reports, other engines', and nonsense."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.records import Load, Rejected, Timings
from policies.reports import MAX_REPORT_BYTES, Report, boot_mark, decode_report, encode_report, with_cost
from tests.fleets import worker

WORKER = worker("w", boot="b00t")
COUNTS = st.integers(0, 10_000_000)


def read(value: bytes) -> Report:
    report = decode_report(value)
    assert isinstance(report, Report), report
    return report


@given(
    st.builds(
        Load, worker=st.just("w"), boot=st.just("b00t"), seq=st.integers(0, 2**53), waiting=COUNTS, running=COUNTS,
        backlog=st.none() | st.floats(0, 3600), tokens_waiting=COUNTS, kv_use=st.floats(0, 1), draining=st.booleans(),
        arrived=st.integers(0, 2**53),
    )
)  # fmt: skip
def test_our_own_load_comes_back_as_it_was(load: Load) -> None:
    report = read(encode_report(load, 0.5, 12.0).encode())
    assert report.ordered
    found = report.load(WORKER, None)
    assert found is not None
    rounded = {"backlog", "kv_use"}
    for name in load.__struct_fields__:
        expected = getattr(load, name)
        assert getattr(found, name) == (pytest.approx(expected, rel=1e-3) if name in rounded and expected else expected)


def test_it_is_an_orca_load_report_whose_metrics_are_all_numbers() -> None:
    value = encode_report(Load(worker="w", boot="b00t", seq=7, waiting=1, running=2), 0.75, 33.25)
    assert value.startswith("JSON ")
    assert "\n" not in value
    report = msgspec.json.decode(value.removeprefix("JSON ").encode())
    assert report.keys() == {"application_utilization", "rps_fractional", "named_metrics"}
    assert (report["application_utilization"], report["rps_fractional"]) == (0.75, 33.25)
    assert all(isinstance(figure, int | float) for figure in report["named_metrics"].values())


def test_a_report_may_say_what_its_own_request_cost() -> None:
    plain = encode_report(Load(worker="w", boot="b00t", seq=7, waiting=1, running=2), 0.75, 33.25)
    told = with_cost(plain, Timings(queue=0.002, prefill=0.25, accel=0.1, batch=8))
    assert msgspec.json.decode(told.removeprefix("JSON "))["request_cost"] == {
        "queue_seconds": 0.002, "compute_seconds": 0.25, "accelerator_seconds": 0.1, "batch_items": 8,
    }  # fmt: skip
    assert read(told.encode()) == read(plain.encode())
    text = with_cost(plain, Timings(queue=0.002, prefill=0.25, decode=0.5))
    assert msgspec.json.decode(text.removeprefix("JSON "))["request_cost"]["compute_seconds"] == 0.75


def test_a_report_of_another_boot_tells_nothing_of_this_one() -> None:
    report = read(encode_report(Load(worker="w", boot="other", seq=7, waiting=1, running=2), 0.0, 0.0).encode())
    assert report.load(WORKER, None) is None
    assert boot_mark("other") != boot_mark("b00t")


@pytest.mark.parametrize(
    "value",
    [
        b'JSON {"named_metrics": {"kv_cache_usage_perc": 0.4, "num_requests_waiting": 3.0}}',  # vLLM 0.33
        b'{"named_metrics":{"kv_cache_usage_perc":0.4,"num_requests_waiting":3}}',  # its Rust frontend
        b"TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=3.0",
        b"named_metrics.kv_cache_usage_perc=0.4,named_metrics.num_requests_waiting=3",
        # Envoy
        b"TEXT cpu_utilization:0.3, named_metrics.num_requests_waiting:3, named_metrics.kv_cache_usage_perc:0.4",
        b'JSON {"cpu_utilization": 0.3, "utilization": {"a": 1}, "named_metrics": '
        b'{"num_requests_waiting": 3, "kv_cache_usage_perc": 0.4, "custom": 1e9}}',
    ],
)  # fmt: skip
def test_other_engines_reports_are_understood_in_every_spelling(value: bytes) -> None:
    report = read(value)
    assert (report.waiting, report.running, report.kv_use, report.ordered) == (3.0, None, 0.4, False)


def test_what_a_foreign_engine_does_not_say_stays_as_known() -> None:
    report = read(b"TEXT named_metrics.num_requests_waiting=3.0, named_metrics.kv_cache_usage_perc=1.0000001")
    known = Load(worker="w", boot="b00t", seq=41, waiting=9, running=8, backlog=2.0, draining=True, arrived=5)
    assert report.load(WORKER, known) == Load(
        worker="w", boot="b00t", seq=41, waiting=3, running=8, kv_use=1.0, draining=True, arrived=5
    )
    first = Load(worker="w", boot="b00t", seq=0, waiting=3, kv_use=1.0)
    assert report.load(WORKER, None) == report.load(WORKER, msgspec.structs.replace(known, boot="older")) == first


@pytest.mark.parametrize("value", [b"JSON {}", b'JSON {"named_metrics": {}}', b"TEXT cpu_utilization=0.3"])
def test_a_report_without_a_queue_tells_nothing(value: bytes) -> None:
    assert read(value).load(WORKER, None) is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", "parse"),
        (b"JSON ", "parse"),
        (b"JSON []", "parse"),
        (b'JSON {"named_metrics": {"num_requests_waiting": "many"}}', "parse"),
        (b'JSON {"named_metrics": {"num_requests_waiting": -1}}', "parse"),
        (b'JSON {"named_metrics": {"num_requests_waiting": NaN}}', "parse"),
        (b'JSON {"named_metrics": {"num_requests_waiting": 1e999}}', "parse"),
        (b'JSON {"named_metrics": {"num_requests_waiting": 1, "backlog_seconds": 1e9}}', "parse"),
        (b"TEXT named_metrics.num_requests_waiting=nan", "parse"),
        (b"TEXT named_metrics.num_requests_waiting=inf", "parse"),
        (b"TEXT named_metrics.num_requests_waiting=-1", "parse"),
        (b"TEXT named_metrics.num_requests_waiting=", "parse"),
        (b"TEXT nonsense", "parse"),
        (b"TEXT \xff=1", "parse"),
        (b"BIN CgA=", "format"),
        (b"JSON {" + b" " * MAX_REPORT_BYTES + b"}", "size"),
    ],
)
def test_nonsense_is_refused(value: bytes, kind: str) -> None:
    rejected = decode_report(value)
    assert isinstance(rejected, Rejected)
    assert rejected.kind == kind


@given(
    st.binary(max_size=80) | st.binary(max_size=60).map(b"JSON ".__add__) | st.binary(max_size=60).map(b"TEXT ".__add__)
)
def test_no_bytes_raise(value: bytes) -> None:
    report = decode_report(value)
    if isinstance(report, Report):
        report.load(WORKER, None)
