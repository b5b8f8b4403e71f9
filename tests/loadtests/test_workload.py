import itertools
from collections import Counter

import numpy as np
import pytest

from loadtests.arrivals import Arrivals, Burst, Day, Origin, Process
from loadtests.prefixes import Sessions
from loadtests.sizes import Ranges, fitted
from loadtests.workload import Class, Demand, Planned, Surface, Tenants, prompt, prose, share_out

TIGHT = Class(name="tight", surface=Surface.CHAT, model="m", share=2, total_s=0.1)
LOOSE = Class(name="loose", surface=Surface.EMBEDDING, model="e", share=1, items=(2, 4), output_tokens=(0, 0))
SMALL = Ranges(prompt_tokens=(8, 24), output_tokens=(8, 24))
EVEN = Arrivals(process=Process.EVEN)
MIX = Demand(classes=(TIGHT, LOOSE), sizes=SMALL)
EAST_WEST = {"east": Origin(share=3, longitude=140), "west": Origin(share=1, longitude=-100)}


def test_same_seed_same_plan_other_seed_other_plan():
    assert MIX.plan(50, 2, EAST_WEST, seed=3) == MIX.plan(50, 2, EAST_WEST, seed=3)
    assert MIX.plan(50, 2, EAST_WEST, seed=3) != MIX.plan(50, 2, EAST_WEST, seed=4)


def test_a_plan_is_in_the_order_of_its_times_and_numbered():
    plan = MIX.plan(50, 4, EAST_WEST, seed=1)
    assert all(a.at <= b.at for a, b in itertools.pairwise(plan))
    assert [planned.number for planned in plan] == list(range(len(plan)))
    assert plan[0].at >= 0
    assert plan[-1].at < 4


def test_other_sizes_leave_the_arrivals_as_they_are():
    large = Demand(classes=MIX.classes, sizes="azure-conversation")
    assert [planned.at for planned in large.plan(50, 4, seed=1)] == [planned.at for planned in MIX.plan(50, 4, seed=1)]


def test_even_arrivals_are_as_many_as_asked_and_evenly_spaced():
    plan = Demand(classes=(TIGHT,), sizes=SMALL, arrivals=EVEN).plan(4, 5 / 4)
    assert [planned.at for planned in plan] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


def test_shares_of_classes_are_exact():
    plan = Demand(classes=MIX.classes, sizes=SMALL, arrivals=EVEN).plan(60, 1)
    assert Counter(planned.kind.name for planned in plan) == {"tight": 40, "loose": 20}


@pytest.mark.parametrize("requests", [0, 1, 2, 3, 7, 100])
def test_shares_add_up_and_are_off_by_less_than_one(requests):
    shared = share_out(MIX.classes, requests)
    assert sum(shared) == requests
    assert abs(shared[0] - requests * 2 / 3) < 1


def test_a_class_with_sizes_of_its_own_keeps_to_them_and_others_to_the_demands():
    for planned in MIX.plan(200, 1, seed=9):
        assert 8 <= planned.prompt_tokens <= 24
        if planned.kind is TIGHT:
            assert 8 <= planned.output_tokens <= 24
            assert planned.items == 1
        else:
            assert planned.output_tokens == 0
            assert 2 <= planned.items <= 4


def test_what_a_class_needs_in_the_mean_is_known_beforehand():
    assert MIX.mean(TIGHT) == (16, 16)
    assert MIX.mean(LOOSE) == (16, 0)
    conversation = Demand(classes=(TIGHT,))
    plan = conversation.plan(1000, 20, seed=1)
    # 20,000 draws of a size whose deviation is about its mean: 3 % is over four standard errors.
    assert np.mean([planned.prompt_tokens for planned in plan]) == pytest.approx(conversation.mean(TIGHT)[0], rel=0.03)
    assert np.median([planned.prompt_tokens for planned in plan]) == pytest.approx(
        conversation.median(TIGHT)[0], rel=0.03
    )


def test_origins_get_their_shares():
    """Of 4,000 requests 3,000 are due in the east; a Poisson count strays by 55, so 250 is over four of it."""
    counts = Counter(planned.origin for planned in MIX.plan(400, 10, EAST_WEST, seed=1))
    assert counts["east"] == pytest.approx(3000, abs=250)
    assert counts["west"] == pytest.approx(1000, abs=150)


def test_the_sun_moves_the_load():
    """At 05:40 UTC it is 15:00 at 140 degrees east; half a day later the afternoon is in the west."""
    day = Day(length_s=20, depth=0.8, starts_utc_hour=15 - 140 / 15)
    plan = Demand(classes=(TIGHT,), sizes=SMALL, day=day).plan(400, 20, EAST_WEST, seed=1)
    share = lambda low, high: Counter(p.origin for p in plan if low <= p.at < high)  # noqa: E731
    assert share(0, 2)["east"] / share(9, 11)["east"] > 4
    assert share(9, 11)["west"] / share(0, 2)["west"] > 2


def test_tenants_are_skewed_and_a_burst_may_be_one_tenants():
    tenants = Tenants(count=4, skew=1)
    hog = Burst(at=5, lasts=5, factor=2, tenant="hog")
    plan = Demand(classes=(TIGHT,), sizes=SMALL, tenants=tenants, bursts=(hog,)).plan(400, 10, seed=1)
    counts = Counter(planned.tenant for planned in plan)
    # The flood doubles half of the time: 2,000 requests of 6,000. Zipf's first of four has 12/25 of the others.
    assert counts["hog"] == pytest.approx(2000, rel=0.1)
    assert counts["tenant-1"] == pytest.approx(4000 * 12 / 25, rel=0.1)
    assert all(5 <= planned.at < 10 for planned in plan if planned.tenant == "hog")


def test_what_no_router_knows_and_ranges_upside_down_are_refused():
    with pytest.raises(ValueError, match=r"probability: 0.97 is none of 0.9, 0.95, 0.98, 0.99"):
        Class(name="c", probability=0.97)
    with pytest.raises(ValueError, match="output_tokens: the first of a range is its lower end"):
        Class(name="c", output_tokens=(9, 8))


def test_conversations_keep_their_tenant_and_have_a_name():
    tenants = Tenants(count=3)
    talking = Demand(classes=(TIGHT,), sizes=SMALL, tenants=tenants, sessions=Sessions(think_s=1, follow_ups=0.6))
    owners: dict[str, set[str]] = {}
    for planned in talking.plan(200, 10, seed=1):
        assert planned.prefix
        owners.setdefault(planned.session, set()).add(planned.tenant)
    assert all(len(owner) == 1 for owner in owners.values())
    assert len(owners) < 1200


def test_an_unknown_fit_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no fit 'nope'; there are arxiv-summarization, azure-code, azure-conv"):
        Demand(classes=(TIGHT,), sizes="nope")


def test_a_planned_request_says_what_its_class_says():
    planned = Planned(0, 0.0, Class(name="s", model="x"), 8, 8, 1, seed=1)
    assert (planned.model, planned.stream) == ("x", True)
    assert not Planned(0, 0.0, TIGHT, 8, 8, 1, seed=1).stream


def test_the_shipped_fits_are_read_once():
    assert fitted("azure-code") is fitted("azure-code")


def test_equal_beginnings_are_equal_words():
    first, second = (Planned(0, 0.0, TIGHT, 600, 1, 1, seed=n, prefix=(7, n)) for n in (1, 2))
    words, others = prompt(first).split(), prompt(second).split()
    assert len(words) == len(others) == 600
    assert words[:512] == others[:512]
    assert words[512:] != others[512:]
    alone = Planned(0, 0.0, TIGHT, 20, 1, 1, seed=5)
    assert prompt(alone) == prose(20, 5)
    assert prompt(alone, item=1) == prose(20, 6)


def test_prose_is_seeded_and_as_long_as_asked():
    assert prose(12, 5) == prose(12, 5) != prose(12, 6)
    assert len(prose(12, 5).split()) == 12
