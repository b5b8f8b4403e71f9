import pytest

from policies.reason import Reason
from policies.reliability import EDGES, Reliability
from policies.request import Outcome
from tests.fleets import request, router, worker


def test_each_prediction_is_in_the_bin_that_begins_at_most_there():
    counted = Reliability()
    for probability in (0.0, 0.05, 0.1, 0.95, 0.979, 0.99, 1.0):
        counted.add(probability, True)
    assert {b.label: b.count for b in counted.bins() if b.count} == {
        "0-0.1": 2,
        "0.1-0.2": 1,
        "0.95-0.98": 2,
        "0.99-1": 2,
    }
    assert len(counted.bins()) == len(EDGES) + 1


def test_the_error_is_what_bins_are_off_by():
    counted = Reliability()
    for kept in (True, True, True, False):
        counted.add(0.95, kept)  # off by 0.2
    for kept in (True, False):
        counted.add(0.5, kept)  # right
    assert counted.error == pytest.approx(0.2 * 4 / 6)
    assert counted.brier == pytest.approx((3 * 0.05**2 + 0.95**2 + 2 * 0.25) / 6)
    assert Reliability().error == Reliability().brier == 0.0


def test_two_gateways_make_one_diagram():
    left, right, both = Reliability(), Reliability(), Reliability()
    for counted, kept in ((left, True), (right, False)):
        counted.add(0.92, kept)
        both.add(0.92, kept)
    left.merge(right.bins())
    assert left.bins() == both.bins()
    assert left.error == pytest.approx(both.error)


def test_the_router_counts_what_had_a_deadline_with_the_chance_it_was_sent_with():
    r = router(worker("w"), rtt={"w": 0.001})
    for total in (0.02, 0.02, 9.0):
        r.report(r.route(request(deadline=1.0), 0.0), Outcome(total=total), total)
    r.report(r.route(request(), 0.0), Outcome(total=0.02), 0.02)
    r.report(r.route(request(deadline=1.0), 0.0), Outcome(reason=Reason.CLIENT_GONE), 0.0)
    counted = r.fleet.calibration.reliability
    assert (counted.count, counted.bins()[-1].kept) == (3, pytest.approx(2 / 3))
