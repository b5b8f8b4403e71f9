import pytest

from policies.reason import Reason
from policies.request import Outcome
from policies.retry import RetryBudget, RetryConfig, repeatable


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
    assert granted <= 3 + 0.2 * 1000


def test_a_quiet_gateway_may_still_repeat():
    budget = RetryBudget(RetryConfig())
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.released()
    assert budget.take()


def test_a_lasting_outage_stops_repeats_and_successes_bring_them_back():
    budget = RetryBudget(RetryConfig(bucket_tokens=10.0))
    for _ in range(5):
        budget.settled(ok=False)
    assert not budget.take()
    for _ in range(20):
        budget.settled(ok=True)
    assert budget.take()
