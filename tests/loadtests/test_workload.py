import itertools
from collections import Counter

import pytest

from loadtests.workload import Arrivals, Kind, Surface, Workload, prose, share_out

TIGHT = Kind(name="tight", surface=Surface.CHAT, model="m", weight=2, deadline=0.1)
LOOSE = Kind(name="loose", surface=Surface.EMBEDDING, model="e", weight=1, items=(2, 4))
MIX = Workload(kinds=(TIGHT, LOOSE), rate=50)


def test_same_seed_same_plan_other_seed_other_plan():
    assert MIX.plan(40, seed=3) == MIX.plan(40, seed=3)
    assert MIX.plan(40, seed=3) != MIX.plan(40, seed=4)


def test_a_plan_of_fewer_requests_is_not_longer_than_asked():
    assert len(MIX.plan(1, seed=1)) == 1
    assert MIX.plan(0, seed=1) == []


def test_shares_are_exact():
    assert Counter(planned.kind.name for planned in MIX.plan(60, seed=1)) == {"tight": 40, "loose": 20}


@pytest.mark.parametrize("requests", [1, 2, 3, 7, 100])
def test_shares_add_up_and_are_off_by_less_than_one(requests):
    shared = Counter(kind.name for kind in share_out(MIX.kinds, requests))
    assert sum(shared.values()) == requests
    assert abs(shared["tight"] - requests * 2 / 3) < 1


def test_poisson_arrivals_have_the_rate():
    """The sum of 5000 exponential gaps has a relative deviation of 1/sqrt(5000) = 1.4 %; 6 % is over four of them."""
    plan = MIX.plan(5000, seed=1)
    assert plan[-1].at == pytest.approx(5000 / MIX.rate, rel=0.06)
    assert all(a.at <= b.at for a, b in itertools.pairwise(plan))


def test_even_arrivals_are_evenly_spaced():
    plan = Workload(kinds=(TIGHT,), rate=4, arrivals=Arrivals.EVEN).plan(5, seed=1)
    assert [planned.at for planned in plan] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


def test_sizes_stay_in_their_ranges():
    for planned in MIX.plan(200, seed=9):
        assert planned.kind.prompt_words[0] <= planned.prompt_words <= planned.kind.prompt_words[1]
        assert planned.kind.output_tokens[0] <= planned.output_tokens <= planned.kind.output_tokens[1]
        assert planned.kind.items[0] <= planned.items <= planned.kind.items[1]


def test_prose_is_seeded_and_as_long_as_asked():
    assert prose(12, 5) == prose(12, 5) != prose(12, 6)
    assert len(prose(12, 5).split()) == 12
