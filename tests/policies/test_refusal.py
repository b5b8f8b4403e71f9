import pytest

from policies.candidates import Candidates
from policies.reason import Reason
from policies.refusal import violated, why_nobody
from policies.request import DrainSet, LoadSeen, Selection
from tests.fleets import endpoint, load, request, router, worker


@pytest.fixture
def fleet():
    return router(worker("w", endpoints=(endpoint(quality=0.9),)))


def why(made, **wishes):
    asked = request(**wishes)
    columns = made.fleet.columns("chat")
    return why_nobody(Candidates(columns, asked, columns.eligible(asked, asked.quality, (), 0.5), 0.0), 0.0)


@pytest.mark.parametrize(
    ("wishes", "reason", "param"),
    [
        ({"selection": Selection(regions=(("mars",),))}, Reason.REGION_LOCKED, "x-allow-regions"),
        ({"selection": Selection(only=("other",))}, Reason.NO_MATCHING_NODE, "provider"),
        ({"selection": Selection(grpc=True)}, Reason.NO_MATCHING_NODE, None),
        ({"quality": 0.95, "min_quality": 0.95}, Reason.QUALITY_FLOOR, "x-min-quality"),
        ({"max_cost": 1e-12}, Reason.PRICE_CAP, "x-max-cost-usd"),
        ({"deadline": 0.001}, Reason.DEADLINE_INFEASIBLE, "x-deadline-ms"),
        ({"order": ("x",), "allow_fallbacks": False}, Reason.NO_MATCHING_NODE, "provider.order"),
    ],
)
def test_the_first_obstacle_is_named(fleet, wishes, reason, param):
    shed = why(fleet, **wishes)
    assert (shed.reason, shed.param) == (reason, param)


def test_nothing_is_violated_where_only_the_fleet_is_to_blame(fleet):
    assert violated(fleet.fleet.columns("chat"), request()) is None
    fleet.observe(DrainSet("w", on=True), 0.0)
    shed = why(fleet)
    assert (shed.reason, shed.detail) == (Reason.NO_CAPACITY, "Every node of this model is draining.")


def test_a_patient_request_is_told_how_long_the_queue_is(fleet):
    fleet.observe(LoadSeen(load("w", 2, waiting=500, running=1, backlog=70.0), 0.0), 0.0)
    shed = why(fleet)
    assert (shed.reason, shed.retry_after) == (Reason.OVERLOADED, pytest.approx(10.0, abs=0.1))
