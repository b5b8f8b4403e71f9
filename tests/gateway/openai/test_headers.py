import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.headers import MAX_SECONDS, NOTHING, TABLE, Asked, make_id, parse
from policies.reason import Reason
from policies.request import INFINITE, Infeasible, Shed


def asked(*headers: tuple[bytes, bytes]) -> Asked:
    result = parse(headers)
    assert isinstance(result, Asked), result
    return result


def refused(*headers: tuple[bytes, bytes]) -> Shed:
    result = parse(headers)
    assert isinstance(result, Shed), result
    assert result.reason is Reason.BAD_REQUEST
    return result


def test_unknown_headers_ask_for_nothing():
    assert asked((b"host", b"a"), (b"x-deadline", b"junk")) is NOTHING
    assert asked() is NOTHING


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        (b"x-deadline-ms", b"1500", "deadline", 1.5),
        (b"x-deadline-ms", b"0", "deadline", 0.0),
        (b"x-deadline-ms", b"12.5", "deadline", 0.0125),
        (b"x-deadline-ms", b"1e3", "deadline", 1.0),
        (b"x-deadline-ms", b"1e99", "deadline", MAX_SECONDS),
        (b"x-deadline-ms", b"1e999", "deadline", MAX_SECONDS),
        (b"x-request-slo-ms", b"250", "deadline", 0.25),
        (b"x-envoy-upstream-rq-timeout-ms", b"250", "deadline", 0.25),
        (b"x-envoy-upstream-rq-timeout-ms", b"0", "deadline", INFINITE),
        (b"grpc-timeout", b"250m", "deadline", 0.25),
        (b"grpc-timeout", b"2S", "deadline", 2.0),
        (b"grpc-timeout", b"1M", "deadline", 60.0),
        (b"grpc-timeout", b"1H", "deadline", 3600.0),
        (b"grpc-timeout", b"99999999H", "deadline", MAX_SECONDS),
        (b"grpc-timeout", b"500000u", "deadline", 0.5),
        (b"grpc-timeout", b"99999999n", "deadline", 0.099999999),
        (b"x-litellm-timeout", b"30", "deadline", 30.0),
        (b"x-slo-ttft-ms", b"400", "ttft", 0.4),
        (b"x-llm-d-slo-ttft-ms", b"400", "ttft", 0.4),
        (b"x-slo-tpot-ms", b"40", "tpot", 0.04),
        (b"x-llm-d-slo-tpot-ms", b"40", "tpot", 0.04),
        (b"x-max-wait-ms", b"10", "max_wait", 0.01),
        (b"x-deadline-policy", b"degrade", "when_infeasible", Infeasible.DEGRADE),
        (b"x-deadline-policy", b"hold", "when_infeasible", Infeasible.HOLD),
        (b"x-deadline-policy", b"best_effort", "when_infeasible", Infeasible.BEST_EFFORT),
        (b"x-deadline-policy", b"reject", "when_infeasible", Infeasible.REJECT),
        (b"x-deadline-probability", b"0.5", "probability", 0.90),
        (b"x-deadline-probability", b"0.90", "probability", 0.90),
        (b"x-deadline-probability", b"0.91", "probability", 0.95),
        (b"x-deadline-probability", b"0.96", "probability", 0.98),
        (b"x-deadline-probability", b"0.985", "probability", 0.99),
        (b"x-deadline-probability", b"1", "probability", 0.99),
        (b"x-max-cost-usd", b"0.002", "max_cost", 0.002),
        (b"x-min-quality", b"0.98", "min_quality", 0.98),
        (b"x-allow-regions", b"eu-*, us-east1", "regions", ("eu-*", "us-east1")),
        (b"x-priority", b"bulk", "priority", "bulk"),
        (b"x-session-id", b"user:42/a", "affinity", "user:42/a"),
        (b"x-request-id", b"Root=1-67891233-abcdef", "request_id", "Root=1-67891233-abcdef"),
        (b"x-route-explain", b"1", "explain", True),
        (b"x-route-explain", b"False", "explain", False),
        (b"x-stainless-retry-count", b"2", "retry_count", 2),
    ],
)
def test_each_name_and_unit(name, value, field, expected):
    assert (
        getattr(asked((name, value)), field) == pytest.approx(expected)
        if isinstance(expected, float)
        else (getattr(asked((name, value)), field) == expected)
    )


MALFORMED_DURATIONS = [
    b"",
    b"-1",
    b"nan",
    b"inf",
    b"infinity",
    b"1_0",
    b" 1",
    b"1 ",
    b"abc",
    b"0x10",
    b"1,5",
    b"+5",
    b"\xb2",
]


@pytest.mark.parametrize("row", [row for row in TABLE if row.field in ("deadline", "ttft", "tpot", "max_wait")])
@pytest.mark.parametrize("value", MALFORMED_DURATIONS)
def test_malformed_durations_are_refused_and_named(row, value):
    shed = refused((row.name, value))
    assert shed.param == row.name.decode()
    assert row.expects in shed.detail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"grpc-timeout", b"250"),
        (b"grpc-timeout", b"123456789m"),
        (b"grpc-timeout", b"1h"),
        (b"x-deadline-policy", b"best-effort"),
        (b"x-deadline-probability", b"95"),
        (b"x-max-cost-usd", b"1e999"),
        (b"x-max-cost-usd", b"-0.1"),
        (b"x-min-quality", b"2.1"),
        (b"x-allow-regions", b""),
        (b"x-allow-regions", b"eu-*,,us"),
        (b"x-allow-regions", b"[a-z]"),
        (b"x-allow-regions", b",".join([b"a"] * 33)),
        (b"x-priority", b"very high"),
        (b"x-session-id", b"a b"),
        (b"x-session-id", b"a" * 257),
        (b"x-request-id", b""),
        (b"x-request-id", b"a\tb"),
        (b"x-request-id", b'"quoted"'),
        (b"x-request-id", b"a" * 129),
        (b"x-route-explain", b"yes"),
        (b"x-stainless-retry-count", b"-1"),
        (b"x-stainless-retry-count", b"9" * 5000),
    ],
)
def test_malformed_values_are_refused(name, value):
    assert refused((name, value)).param == name.decode()


@pytest.mark.parametrize("row", TABLE)
def test_a_header_sent_twice_is_refused(row):
    valid = {"grpc-timeout": b"1S", "x-deadline-policy": b"hold", "x-allow-regions": b"eu"}.get(row.name.decode(), b"1")
    assert refused((row.name, valid), (row.name, valid)).param == row.name.decode()


@pytest.mark.parametrize("order", [1, -1])
def test_among_different_names_the_first_in_the_table_wins(order):
    headers = [(b"x-deadline-ms", b"100"), (b"grpc-timeout", b"2S"), (b"x-litellm-timeout", b"3")]
    assert asked(*headers[::order]).deadline == pytest.approx(0.1)
    assert asked(*headers[1:][::order]).deadline == pytest.approx(2.0)


def test_the_losing_name_is_still_checked():
    assert refused((b"x-deadline-ms", b"100"), (b"grpc-timeout", b"soon")).param == "grpc-timeout"


def test_no_refusal_repeats_the_clients_bytes():
    canary = b"<script>canary"
    for row in TABLE:
        result = parse([(row.name, canary)])
        if isinstance(result, Shed):
            assert "canary" not in result.detail
            assert "canary" not in str(result.param)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        (b"junk", False),
    ],
)
def test_a_bad_traceparent_is_ignored(value, kept):
    assert asked((b"traceparent", value)).traceparent == (value if kept else b"")


def test_the_table_names_fields_that_exist_and_lower_case_names():
    assert {row.field for row in TABLE} == set(Asked.__struct_fields__)
    for row in TABLE:
        assert re.fullmatch(rb"[a-z0-9-]+", row.name)
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_made_ids_are_valid_and_differ():
    rng = random.Random(1)
    first, second = make_id(rng), make_id(rng)
    assert first != second
    assert asked((b"x-request-id", first.encode())).request_id == first


names = st.sampled_from([row.name for row in TABLE])
values = st.binary(max_size=40) | st.text("0123456789.eE+-mSnH*, ", max_size=12).map(str.encode)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_any_bytes_are_read_or_refused_and_durations_stay_in_range(headers):
    result = parse(headers)
    if isinstance(result, Shed):
        assert result.param is not None
        assert result.param.encode() in {name for name, _ in headers}
        return
    assert len({name for name, _ in headers}) == len(headers)
    for duration in (result.deadline, result.ttft, result.tpot, result.max_wait):
        assert duration is None or 0 <= duration <= MAX_SECONDS or duration == INFINITE
