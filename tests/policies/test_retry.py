import pytest

from policies.reason import Reason
from policies.request import Outcome
from policies.retry import OPENING_BALANCE, RetryBudget, RetryConfig, repeatable


@pytest.mark.parametrize(
    ("outcome", "pure", "impure"),
    [
        (Outcome(reason=Reason.CONNECT_FAILED, executed=False), True, True),
        (Outcome(reason=Reason.REFUSED, executed=False), True, True),
        (Outcome(reason=Reason.UPSTREAM_LOST, executed=False), True, True),
        (Outcome(reason=Reason.UPSTREAM_LOST), True, False),
        (Outcome(reason=Reason.UPSTREAM_ERROR), True, False),
        (Outcome(reason=Reason.BAD_UPSTREAM_REPLY), True, False),
        (Outcome(reason=Reason.CLIENT_GONE, executed=False), False, False),
        (Outcome(reason=Reason.BAD_REQUEST), False, False),
        (Outcome(), False, False),
    ],
)
def test_the_rule(outcome, pure, impure):
    assert repeatable(outcome, pure=True) is pure
    assert repeatable(outcome, pure=False) is impure


def test_repeats_stay_within_their_share():
    budget = RetryBudget(RetryConfig())
    granted = 0
    for _ in range(1000):
        budget.requested()
        budget.settled(ok=True)
        granted += budget.take()  # none is ever released: the worst case
    assert granted <= 3 + OPENING_BALANCE + 0.2 * 1000


def test_a_quiet_gateway_may_still_repeat():
    budget = RetryBudget(RetryConfig())
    granted = sum(budget.take() for _ in range(500))
    assert granted == 3 + OPENING_BALANCE
    for _ in range(granted - 2):
        budget.released()
    assert budget.take(), "a few at once are always allowed"


def test_what_a_worker_had_in_flight_when_it_died_can_be_repeated_at_once():
    budget = RetryBudget(RetryConfig())
    for _ in range(1000):
        budget.requested()
        budget.settled(ok=True)
    for _ in range(200):
        budget.settled(ok=False)
    assert all(budget.take() for _ in range(200))


def test_a_lasting_outage_stops_repeats_and_successes_bring_them_back():
    budget = RetryBudget(RetryConfig(bucket_tokens=10.0))
    for _ in range(5):
        budget.settled(ok=False)
    assert not budget.take()
    for _ in range(20):
        budget.settled(ok=True)
    assert budget.take()
