import pytest

from policies.reason import Reason
from policies.request import Dispatch, Eta, Outcome, Status, kept
from tests.fleets import request, router, worker

SENT = 100.0


def test_a_request_without_any_deadline_is_patient():
    assert request().patient
    assert not request(deadline=1.0).patient
    assert not request(first_token_deadline=1.0).patient
    assert not request(token_interval=0.02).patient


def test_an_eta_adds_up():
    eta = Eta(network=0.1, wait=0.2, prefill=0.3, decode=0.4, spread=0.05)
    assert eta.first_token == pytest.approx(0.6)
    assert eta.total == pytest.approx(1.0)


def test_requests_are_immutable():
    with pytest.raises(AttributeError):
        request().model = "other"


@pytest.mark.parametrize(
    ("deadlines", "outcome", "in_deadline"),
    [
        ({"deadline": SENT + 0.25}, Outcome(first_byte=0.1, total=0.25), True),
        ({"deadline": SENT + 0.25}, Outcome(first_byte=0.1, total=0.26), False),
        ({"first_token_deadline": SENT + 0.25}, Outcome(first_byte=0.25, total=9.0), True),
        ({"first_token_deadline": SENT + 0.25}, Outcome(first_byte=0.26, total=9.0), False),
        ({"first_token_deadline": SENT + 0.25}, Outcome(total=9.0), False),
        ({"token_interval": 1e-9}, Outcome(total=9.0, output_tokens=100), True),
        ({}, Outcome(total=9.0), True),
        ({}, Outcome(), False),
        ({}, Outcome(reason=Reason.UPSTREAM_LOST, total=0.1), False),
        ({}, Outcome(client_error=True, total=0.1), False),
        ({}, None, False),
    ],
)
def test_in_deadline_means_answered_with_first_and_last_token_in_time(deadlines, outcome, in_deadline):
    node = router(worker("a")).fleet.nodes()[0]
    eta = Eta(network=0.1, wait=0.1, prefill=0.1, decode=0.1, spread=0.1)
    asked = request(**deadlines)
    assert kept(Dispatch(asked, node, SENT, 1, Status.FEASIBLE, eta, 0.0), outcome) is in_deadline
