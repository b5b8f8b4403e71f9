import pytest

from policies.request import Eta
from tests.fleets import request


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
