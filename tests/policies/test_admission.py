import math

from policies.admission import MAX_RETRY_AFTER, infeasible, retry_after
from policies.reason import Reason


def test_an_infeasible_deadline_says_what_would_do():
    shed = infeasible(0.1234)
    assert shed.reason is Reason.DEADLINE_INFEASIBLE
    assert "124 ms more" in shed.detail
    assert shed.param == "x-deadline-ms"
    assert shed.retry_after == 1.0


def test_without_any_node_there_is_nothing_to_wait_for():
    assert infeasible(math.inf).retry_after is None


def test_retry_after_is_bounded():
    assert retry_after(0.0) == 1.0
    assert retry_after(1e9) == MAX_RETRY_AFTER
