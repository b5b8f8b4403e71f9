"""Memory and priority of variants that share a device: weights first, the rest by weight, nobody beyond the limit."""

import pytest

from workers.allocation import CPU, LOWEST, Allotment, limit

GB = 10**9
NEEDS = {"a:bf16": ("bf16", 16 * GB), "a:int8": ("int8", 8 * GB), "b:int8": ("int8", 2 * GB)}


def test_every_variant_gets_its_weights_and_a_share_of_the_rest():
    budgets = Allotment("cuda", 50 * GB, {"int8": 1.5}, ("cuda",)).budgets(NEEDS)
    assert {lane: budget.spare for lane, budget in budgets.items()} == {
        "a:bf16": 6 * GB, "a:int8": 9 * GB, "b:int8": 9 * GB,
    }  # fmt: skip
    assert budgets["a:bf16"].memory == 22 * GB
    assert sum(budget.memory for budget in budgets.values()) == 50 * GB
    assert {budget.providers for budget in budgets.values()} == {("cuda",)}


def test_the_heavier_variant_s_kernels_go_first():
    budgets = Allotment("cuda", None, {"int8": 2.0}).budgets(NEEDS)
    assert [budgets[lane].priority for lane in NEEDS] == [0, -1, -1]
    assert budgets["a:bf16"].memory is None
    many = {f"m:v{i}": (f"v{i}", 1) for i in range(9)}
    found = Allotment("cuda", None, {f"v{i}": float(i + 1) for i in range(9)}).budgets(many)
    assert min(budget.priority for budget in found.values()) == LOWEST


def test_weights_that_exceed_the_limit_are_refused_with_their_sizes():
    with pytest.raises(ValueError, match=r"26\.0 GB.*a:bf16 16\.0 GB.*may have 20\.0 GB.*--memory-gb"):
        Allotment("cuda", 20 * GB).budgets(NEEDS)


def test_a_weight_for_what_is_not_served_is_a_mistake():
    with pytest.raises(ValueError, match="'fp8', which is not served: bf16, int8 are"):
        Allotment("cuda", None, {"fp8": 2.0}).budgets(NEEDS)


def test_on_a_cpu_nothing_is_split():
    assert set(Allotment(weights={"int8": 2.0}).budgets(NEEDS).values()) == {CPU}


def test_a_worker_may_have_what_others_left_but_some_headroom():
    assert limit(100 * GB, 10 * GB, None) == 87 * GB
    assert limit(100 * GB, 10 * GB, 50) == 50 * GB
    assert limit(100 * GB, 99 * GB, None) == 0
    with pytest.raises(ValueError, match=r"--memory-gb 90: the device has 87\.0 GB to give, of 100\.0 GB"):
        limit(100 * GB, 10 * GB, 90)
