"""What is counted, and that Prometheus can read the page."""

from __future__ import annotations

import math
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import BOUNDS, COUNTERS, MAX_REGIONS, OTHER, TOGETHER, Histogram, Reading, Telemetry
from policies.reason import Reason
from policies.request import Eta, Outcome, Status
from tests.gateway.members import dispatch, node, request


def page(telemetry: Telemetry) -> dict[str, float]:
    """Every sample by its name and its labels, in the parser's own order."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(telemetry.page().decode()):
        assert family.name.startswith("isochrone_")
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def answered(**fields: float) -> Outcome:
    return Outcome(**({"total": 0.11, "queue": 0.01, "prefill": 0.03, "decode": 0.04} | fields))  # type: ignore[arg-type]


def test_a_fresh_page_parses_and_shows_every_counter_at_zero() -> None:
    found = page(Telemetry())
    for counter in COUNTERS.values():
        labels = f"{{{counter.label}={counter.value}}}" if counter.label else ""
        assert found[f"isochrone_{counter.family}_total{labels}"] == 0


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Telemetry().count("registry.shrink")


def test_predicted_and_actual_meet_in_the_same_buckets() -> None:
    telemetry = Telemetry()
    sent = dispatch(eta=Eta(network=0.02, wait=0.01, prefill=0.03, decode=0.04, spread=0.01))
    telemetry.settled(sent, answered(), 0.0)
    found = page(telemetry)
    for component, predicted, actual in (
        ("network", 0.02, 0.03), ("queue", 0.01, 0.01), ("prefill", 0.03, 0.03), ("decode", 0.04, 0.04),
        ("total", 0.10, 0.11),
    ):  # fmt: skip
        for side, value in (("predicted", predicted), ("actual", actual)):
            assert found[f"isochrone_{side}_seconds_sum{{component={component}}}"] == pytest.approx(value)
            assert found[f"isochrone_{side}_seconds_count{{component={component}}}"] == 1


def test_a_scrape_counts_what_was_not_yet_compared() -> None:
    telemetry = Telemetry()
    for count in range(2 * TOGETHER + 9):
        telemetry.settled(dispatch(), answered(total=0.6 if count % 2 else 0.11), 0.0)
    found = page(telemetry)
    for bound, least in (("0.2", TOGETHER + 5), ("1.0", 2 * TOGETHER + 9)):
        assert found[f"isochrone_actual_seconds_bucket{{component=total,le={bound}}}"] == least
    assert found["isochrone_predicted_seconds_count{component=network}"] == 2 * TOGETHER + 9


def test_parts_a_worker_did_not_report_are_left_out_of_both() -> None:
    telemetry = Telemetry()
    telemetry.settled(dispatch(), Outcome(total=0.2), 0.0)
    telemetry.settled(dispatch(), Outcome(reason=Reason.UPSTREAM_LOST, total=0.2), 0.0)
    found = page(telemetry)
    for side in ("predicted", "actual"):
        assert found[f"isochrone_{side}_seconds_count{{component=network}}"] == 0
        assert found[f"isochrone_{side}_seconds_count{{component=total}}"] == 1


def test_promises_show_calibration() -> None:
    telemetry = Telemetry()
    wanted = request(deadline=100.5, probability=0.99)
    telemetry.settled(dispatch(wanted), answered(total=0.5), 0.0)
    telemetry.settled(dispatch(wanted), answered(total=0.6), 0.0)
    telemetry.settled(dispatch(wanted, status=Status.BEST_EFFORT), answered(total=0.6), 0.0)
    telemetry.settled(dispatch(request()), answered(), 0.0)  # patient: nothing was promised
    found = page(telemetry)
    assert found["isochrone_promises_total{kept=yes,probability=0.99,status=feasible}"] == 1
    assert found["isochrone_promises_total{kept=no,probability=0.99,status=feasible}"] == 1
    assert found["isochrone_promises_total{kept=no,probability=0.99,status=best_effort}"] == 1
    assert sum(value for name, value in found.items() if name.startswith("isochrone_promises_total")) == 3


def test_what_the_client_did_is_neither_a_kept_nor_a_broken_promise() -> None:
    telemetry, wanted = Telemetry(), request(deadline=100.5)
    telemetry.settled(dispatch(wanted), Outcome(total=0.01, client_error=True), 0.0)
    telemetry.settled(dispatch(wanted), Outcome(reason=Reason.CLIENT_GONE, total=0.01), 0.0)
    found = page(telemetry)
    assert not [name for name in found if name.startswith("isochrone_promises_total")]
    assert found["isochrone_attempts_total{outcome=client_error,region=eu-west}"] == 1
    assert found["isochrone_attempts_total{outcome=client_gone,region=eu-west}"] == 1
    assert "isochrone_attempts_total{outcome=ok,region=eu-west}" not in found
    for side in ("predicted", "actual"):
        assert found[f"isochrone_{side}_seconds_count{{component=total}}"] == 0


def test_requests_attempts_and_dollars() -> None:
    telemetry = Telemetry()
    first, second = dispatch(cost=0.5), dispatch(at=node("us-east"), attempt=2, cost=0.25)
    telemetry.dispatched(first)
    telemetry.settled(first, Outcome(reason=Reason.REFUSED, executed=False), 0.0)
    telemetry.dispatched(second)
    telemetry.settled(second, answered(accelerator=1.5, output_tokens=7), 0.2)
    telemetry.refused(Reason.BAD_FRAMING)
    telemetry.finished(200, 0.12)
    telemetry.finished(400, 0.0)
    found = page(telemetry)
    assert found["isochrone_requests_total{status=200}"] == 1
    assert found["isochrone_refused_total{reason=bad_framing}"] == 1
    assert found["isochrone_dispatches_total{region=us-east,status=feasible}"] == 1
    assert found["isochrone_attempts_total{outcome=refused,region=eu-west}"] == 1
    assert found["isochrone_attempts_total{outcome=ok,region=us-east}"] == 1
    assert found["isochrone_retries_total"] == 1
    assert found["isochrone_cost_dollars_total{region=us-east}"] == 0.2
    assert found["isochrone_expected_cost_dollars_total{region=us-east}"] == 0.25
    assert found["isochrone_accelerator_seconds_total{region=us-east}"] == 1.5
    assert found["isochrone_output_tokens_total{region=us-east}"] == 7
    assert found["isochrone_request_seconds_count"] == 2


def test_regions_are_bounded() -> None:
    telemetry = Telemetry()
    for index in range(MAX_REGIONS + 10):
        telemetry.dispatched(dispatch(at=node(f"r{index}")))
    found = page(telemetry)
    assert found[f"isochrone_dispatches_total{{region={OTHER},status=feasible}}"] == 10
    assert len({name for name in found if name.startswith("isochrone_cost_dollars_total")}) == MAX_REGIONS + 1


def test_readings_are_taken_when_asked() -> None:
    telemetry, figures = Telemetry(), {("eu",): 1.0, ("us",): math.inf}
    telemetry.watch(Reading("age_seconds", "An age.", ("region",), lambda: figures))
    figures["eu",] = 2.0
    found = page(telemetry)
    assert found["isochrone_age_seconds{region=eu}"] == 2.0
    assert found["isochrone_age_seconds{region=us}"] == math.inf


def test_a_reading_that_rises_is_a_counter() -> None:
    telemetry = Telemetry()
    telemetry.watch(Reading("odd", "Odd things.", (), lambda: {(): 3.0}, rises=True))
    assert page(telemetry)["isochrone_odd_total"] == 3.0
    assert b"# TYPE isochrone_odd_total counter" in telemetry.page()


def test_a_histogram_counts_at_or_below_its_bounds() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, 1e9):
        histogram.add(seconds)
    cumulated = dict(histogram.cumulated())
    assert cumulated["0.001"] == 2
    assert cumulated["0.002"] == 3
    assert cumulated["60.0"] == 3
    assert cumulated["+Inf"] == 4


def test_label_values_cannot_break_the_page() -> None:
    telemetry = Telemetry()
    telemetry.watch(Reading("odd", "Odd labels.", ("region",), lambda: {('a"b\\c\nd',): 1.0}))
    assert page(telemetry)['isochrone_odd{region=a"b\\c\nd}'] == 1.0


def test_counting_a_request_asks_nothing_of_prometheus() -> None:
    """Whose `labels()` takes longer than all of it; who is called is the same on a busy machine."""
    telemetry, sent, outcome = Telemetry(), dispatch(request(deadline=101.0)), answered()
    telemetry.dispatched(sent)  # the first to a region makes its counters
    called: set[str] = set()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_globals["__name__"]) if event == "call" else None)
    try:
        telemetry.dispatched(sent)
        telemetry.settled(sent, outcome, 0.1)
        telemetry.finished(200, 0.1)
    finally:
        sys.setprofile(None)
    assert called == {"gateway.telemetry", "policies.request"}
