import openai
import pytest

from loadtests import scenario, showcase
from loadtests.showcase import MIX, Answer, asked, named, sent_from
from loadtests.workload import Planned, Surface

DEMO = scenario.load()
HOME = DEMO.gateways[0]
COMPUTE = 0.050
"""Seconds, above what any request of the mix takes in a worker."""


def reachable(deadline: float | None, allowance: float) -> set[str]:
    """Regions whose round trip from home and `allowance` fit the deadline."""
    return {to for to in DEMO.regions if deadline is None or DEMO.round_trip(HOME, to)[0] + allowance <= deadline}


def test_the_mix_means_what_it_says():
    """Who can make a deadline must not hang on how long compute takes: none (0) or a lot gives the same regions."""
    for kind in MIX.classes:
        allowance = min(COMPUTE, kind.total_s or COMPUTE)
        regions = reachable(kind.total_s, 0.0)
        assert regions == reachable(kind.total_s, allowance), kind.name
        expected = {"now": 1, "soon": 2}.get(kind.name.rpartition(", ")[2], 3)
        assert len(regions) == expected, kind.name


def test_the_mix_goes_from_tight_to_none_and_has_every_call():
    deadlines = [kind.total_s for kind in MIX.classes]
    assert None in deadlines
    assert min(d for d in deadlines if d is not None) <= 0.08
    assert {kind.surface for kind in MIX.classes} == set(Surface)
    assert len(MIX.plan(showcase.RATE, 64 / showcase.RATE, seed=showcase.SEED)) == 64


def test_what_is_asked_travels_in_headers():
    kinds = {kind.name: kind for kind in MIX.classes}
    assert asked(kinds["digit, now"]) == {"x-deadline-ms": "75"}
    assert asked(kinds["embedding, exact"]) == {"x-deadline-ms": "700", "x-min-quality": "1"}
    assert asked(kinds["embeddings, any time"]) == {}


def test_cost_is_the_bill_of_all_attempts():
    planned = Planned(3, 0.0, MIX.classes[0], 8, 8, 1, seed=1)
    headers = {
        "x-route-node": "eu-a",
        "x-route-eta-ms": "4.5",
        "x-route-attempts": "2",
        "x-request-id": "r",
    }
    bill = {"attempts": [{"actual": {"cost_usd": 1e-6}}, {"actual": {"cost_usd": 2e-6}}, {"actual": None}]}
    sent = sent_from(planned, Answer(headers), took=0.02, began=0.0, bill=bill)
    assert sent.cost == pytest.approx(3e-6)
    assert (sent.worker, sent.predicted, sent.attempts, sent.in_deadline) == ("eu-a", 0.0045, 2, True)


@pytest.mark.parametrize(("body", "name"), [({"code": "deadline_exceeded"}, "deadline_exceeded"), (None, "APIError")])
def test_an_error_is_named_as_the_gateway_does(body, name):
    assert named(openai.APIError("late", None, body=body)) == name


def test_a_failed_request_is_not_ok():
    planned = Planned(3, 0.0, MIX.classes[0], 8, 8, 1, seed=1)
    sent = sent_from(planned, Answer(status=503, error="no_capacity"), took=0.02, began=0.0, bill={})
    assert not sent.ok
    assert (sent.cost, sent.error) == (None, "no_capacity")


def test_it_lasts_as_long_as_its_rate_says():
    assert showcase.lasts(32) == pytest.approx(32 / showcase.RATE)
