"""Sorting a plan into kinds: nothing is lost, sizes are the plan's own, and what is cached is not prefilled twice."""

import pytest

from loadtests.simulator.machine import BLOCK_TOKENS
from loadtests.simulator.mix import BUCKETS, SAMPLE, sort_out, typical
from loadtests.simulator.world import WorldError
from loadtests.workload import Class, Planned
from tests.loadtests.simulator.worlds import LOOSE, TIGHT, poisson, world

WHOLE = Class(name="whole", total_s=4.0)


def test_kinds_hold_all_requests_and_their_tokens():
    plan = poisson(rate=200.0)
    mix = sort_out(world(), plan)
    assert sum(kind.share for kind in mix.kinds) == pytest.approx(1.0)
    assert sum(kind.share * kind.prompt for kind in mix.kinds) == pytest.approx(
        sum(planned.prompt_tokens for planned in plan) / len(plan)
    )
    assert sum(kind.share * kind.output for kind in mix.kinds) == pytest.approx(
        sum(planned.output_tokens for planned in plan) / len(plan)
    )
    assert {kind.gateway for kind in mix.kinds} == {"east", "west"}
    assert {kind.asked for kind in mix.kinds} == {TIGHT, LOOSE}
    assert len(mix.kinds) == 2 * 2 * BUCKETS


def test_buckets_hold_about_as_many_requests_each():
    mix = sort_out(world(), poisson(rate=400.0))
    shares = [sum(kind.share for kind in mix.kinds if kind.bucket == bucket) for bucket in range(BUCKETS)]
    assert shares == pytest.approx([1 / BUCKETS] * BUCKETS, rel=0.05)
    for kind in mix.kinds:
        assert mix.bucket(kind.least_prompt) == kind.bucket
        assert kind.least_prompt <= kind.prompt


def test_answers_are_told_apart_only_where_their_end_is_due():
    mix = sort_out(world(), poisson(rate=400.0, kinds=(TIGHT, WHOLE)))
    outputs = {
        kind.name: {
            each.least_output
            for each in mix.kinds
            if each.asked is kind and each.bucket == 0 and each.gateway == "east"
        }
        for kind in (TIGHT, WHOLE)
    }
    assert len(outputs["tight"]) == 1
    assert len(outputs["whole"]) > 2


def test_clients_without_a_gateway_ask_the_nearest():
    mix = sort_out(world(gateways=("east", "west")), poisson(origins=("far",)))
    assert {kind.gateway for kind in mix.kinds} == {"west"}


def test_a_beginning_seen_before_is_computed_no_more():
    blocks = (1, 2, 3)
    plan = [
        Planned(number, float(number), TIGHT, 4 * BLOCK_TOKENS, 1, 1, 0, "east", prefix=prefix)
        for number, prefix in enumerate([blocks, blocks, (1, 9, 3)])
    ]
    mix = sort_out(world(), plan)
    assert sum(kind.share * kind.prompt for kind in mix.kinds) == pytest.approx((4 + 1 + 3) * BLOCK_TOKENS / 3)


def test_the_typical_mix_is_always_the_same():
    first, second = typical(world()), typical(world())
    assert first.kinds == second.kinds
    assert SAMPLE * min(kind.share for kind in first.kinds) > 100


def test_nothing_asked_for_is_said():
    with pytest.raises(WorldError, match="nothing is asked for"):
        sort_out(world(), [])
