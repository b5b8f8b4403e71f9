"""The budget of asked-for probes, in time that tests make."""

from hypothesis import given
from hypothesis import strategies as st

from policies.probing import BURST, IN_ALL, PER_WORKER, ProbeBudget

STEP = 1 / 128


def test_one_worker_is_probed_as_often_as_its_share_allows():
    budget = ProbeBudget()
    granted = [step for step in range(128) if budget.take("w", step * STEP)]
    assert granted == list(range(0, 128, 7)), "every seventh step: the first that is 0.05 s after the last"


def test_all_together_share_one_allowance_that_fills_up_to_a_burst():
    budget = ProbeBudget()
    granted = [sum(budget.take(f"w{number}", second / 8) for number in range(100)) for second in range(10)]
    assert granted == [BURST] * 10
    assert sum(budget.take(f"w{number}", 100.0) for number in range(100)) == BURST, "a long pause saves no more"


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.0, 0.2)), max_size=300))
def test_no_second_sees_more_than_the_budget(asked: list[tuple[int, float]]):
    budget, now, granted = ProbeBudget(), 0.0, []
    for worker, pause in asked:
        now += pause
        if budget.take(f"w{worker}", now):
            granted.append((now, worker))
    for start, first in granted:
        within = [worker for at, worker in granted if start <= at <= start + 1.0]
        assert len(within) <= BURST + IN_ALL + 1
        assert within.count(first) <= PER_WORKER + 1


def test_who_comes_back_is_a_new_worker():
    budget = ProbeBudget()
    assert budget.take("w", 0.0)
    assert not budget.take("w", 0.0)
    budget.forget("w")
    budget.forget("unknown")
    assert budget.take("w", 0.0)
