"""The fluid bound: programs that can be solved by hand, and what it owes to every policy: never to be beaten."""

import math

import numpy as np
import pytest

from loadtests.simulator import definitions, fluid
from loadtests.simulator.world import CostMode, Nodes, Profile, Serving, WorldError
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned
from tests.loadtests.simulator.worlds import FAST, SLOW, poisson, world

PREFILL = Profile(accelerator="a", prefill_tokens_per_s=10_000, slots=1000)
ONE = Class(name="one", first_token_s=1.0)


def nodes(name="n", region="east", count=1, usd=3.6, profile="prefill", **fields):
    return Nodes(name=name, region=region, profiles=(profile,), count=count, usd_per_hour=usd, **fields)


def plain(*pools, profiles=None, **fields):
    """A world in which a request of 1,000 tokens takes 0.1 s of prefill, and its one output token nothing."""
    demand = Demand(classes=(ONE,), sizes=Ranges(prompt_tokens=(1000, 1000), output_tokens=(1, 1)))
    return world(
        nodes=pools or (nodes(),), profiles=profiles or {"prefill": PREFILL}, gateways=("east",),
        **({"demand": demand, "serving": Serving(noise=0.0)} | fields),
    )  # fmt: skip


def asked(count=100, prompt=1000, output=1, kind=ONE, origin="east"):
    return [Planned(i, 2.0 + 8.0 * i / count, kind, prompt, output, 1, i, origin) for i in range(count)]


def test_prefill_bounds_what_is_served():
    bound = fluid.bound(plain(nodes(count=2)), asked(), rate=40.0)
    assert bound.attainment == pytest.approx(20.0 / 40.0)
    assert bound.cost_per_1k == pytest.approx(1000 * 0.1 * 3.6 / 3600)


def test_load_one_is_where_99_percent_can_be_served():
    full = fluid.full_rate(plain(nodes(count=2)))
    assert full == pytest.approx(20.0 / 0.99, rel=1e-6)
    assert fluid.bound(plain(nodes(count=2)), asked(), full).attainment == pytest.approx(0.99)


def test_slow_periods_take_capacity():
    slow = plain(serving=Serving(noise=0.0, slow_factor=2.0, slow_share=(0.1, 0.3)))
    assert fluid.full_rate(slow) == pytest.approx(10.0 * (0.8 + 0.2 / 2.0) / 0.99, rel=1e-6)


def test_slots_bound_what_is_served_by_the_pace_in_full_company():
    decoding = Profile(accelerator="a", prefill_tokens_per_s=1e9, decode_s=0.01, decode_batch_s=0.001, slots=10)
    bound = fluid.bound(plain(profiles={"prefill": decoding}), asked(output=101), rate=1000.0)
    # A full node makes 10 tokens every 10 + (10 + 1) ms: each finds the average company, and itself.
    assert bound.attainment * 1000.0 == pytest.approx(10 / 0.021 / 100, rel=1e-3)


def test_decoding_is_billed_by_the_slot_with_the_company_it_has():
    decoding = Profile(accelerator="a", prefill_tokens_per_s=1e9, decode_s=0.01, decode_batch_s=0.001, slots=10)
    rate = 2.0
    bound = fluid.bound(plain(profiles={"prefill": decoding}), asked(output=101), rate)
    running = rate * 100 * 0.011 / (1 - 0.001 * rate * 100)
    assert bound.cost_per_1k == pytest.approx(running / 10 * 3.6 / 3600 / rate * 1000, rel=0.03)
    assert bound.cost_per_1k <= running / 10 * 3.6 / 3600 / rate * 1000


def test_the_cheap_fill_up_first_and_the_dear_price_them():
    pools = (nodes("cheap", usd=3.6), nodes("dear", usd=36.0))
    light, heavy = (fluid.bound(plain(*pools), asked(), rate) for rate in (8.0, 15.0))
    assert light.cost_per_1k == pytest.approx(0.1)
    assert heavy.cost_per_1k == pytest.approx((10 * 0.1 + 5 * 1.0) / 15)
    assert light.duals["east-cheap"].prefill == pytest.approx(0.0, abs=1e-6)
    assert heavy.duals["east-cheap"].prefill == pytest.approx(
        36.0 - 3.6
    )  # an hour more of it saves an hour of the dear
    assert heavy.duals["east-dear"].prefill == pytest.approx(0.0, abs=1e-6)
    cheap = [pool.nodes.name for pool in heavy.pools].index("cheap")
    assert heavy.flows[:, cheap].sum() == pytest.approx(10.0, rel=1e-3)


def test_fewer_served_cost_less_each():
    pools = (nodes("cheap", usd=3.6), nodes("dear", usd=36.0))
    costs = [fluid.bound(plain(*pools), asked(), 15.0, share).cost_per_1k for share in (0.6, 0.8, 1.0, None)]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(0.1, rel=1e-3)
    assert costs[2] == pytest.approx(costs[3])


def test_nobody_is_served_from_where_the_way_alone_is_too_long():
    near, far = (plain(nodes(region=region)) for region in ("east", "far"))
    hurried = Class(name="hurried", first_token_s=0.2)
    assert fluid.bound(near, asked(kind=hurried), 5.0).attainment == pytest.approx(1.0)
    assert fluid.bound(far, asked(kind=hurried), 5.0).attainment == 0.0
    assert math.isnan(fluid.bound(far, asked(kind=hurried), 5.0).cost_per_1k)


def test_deadlines_for_the_whole_answer_and_its_pace_count():
    crawling = plain(profiles={"prefill": Profile(accelerator="a", prefill_tokens_per_s=1e6, decode_s=0.1, slots=9)})
    for kind, served in [
        (Class(name="whole", total_s=1.0), 0.0),
        (Class(name="whole", total_s=3.0), 1.0),
        (Class(name="pace", token_interval_s=0.09), 0.0),
        (Class(name="pace", token_interval_s=0.11), 1.0),
    ]:
        assert fluid.bound(crawling, asked(output=21, kind=kind), 1.0).attainment == pytest.approx(served), kind


def test_better_variants_only_where_quality_is_asked_for():
    picky = Class(name="picky", first_token_s=1.0, min_quality=0.9)
    poor = plain(profiles={"prefill": Profile(accelerator="a", prefill_tokens_per_s=1e4, quality=0.8)})
    assert fluid.bound(poor, asked(kind=picky), 1.0).attainment == 0.0


def test_paid_capacity_is_free_and_tokens_have_their_price():
    paid = plain(nodes(cost=CostMode.RESERVED))
    assert fluid.bound(paid, asked(), 5.0).cost_per_1k == pytest.approx(0.0)
    listed = plain(nodes(cost=CostMode.TOKEN, input_usd_per_mtok=2.0, output_usd_per_mtok=10.0))
    assert fluid.bound(listed, asked(), 5.0).cost_per_1k == pytest.approx((1000 * 2.0 + 10.0) / 1e3)


def test_a_run_may_do_better_than_the_steady_mean():
    here = world(serving=Serving(noise=0.1, slow_factor=2.5, slow_share=(0.03, 0.09)))
    plan = poisson(rate=250.0)
    counted = [planned for planned in plan if planned.at >= here.warm_up]
    steady, run = fluid.bound(here, counted, len(counted) / 8.0), fluid.run_bound(here, plan)
    assert steady.attainment < 0.9
    assert steady.attainment < run.attainment
    assert fluid.run_bound(here, plan, steady.attainment).cost_per_1k < steady.cost_per_1k


def test_more_load_is_never_served_better_nor_cheaper():
    here, plan = world(), poisson(rate=100.0)
    bounds = [fluid.bound(here, plan, rate) for rate in (20.0, 80.0, 160.0, 320.0)]
    shares = [bound.attainment for bound in bounds]
    assert shares == sorted(shares, reverse=True)
    served = [bound.flows.sum() for bound in bounds]
    assert served == sorted(served)


def test_two_profiles_share_their_accelerators():
    both = Nodes(name="n", region="east", profiles=("fast", "slow"), count=1, usd_per_hour=1.0)
    bound = fluid.bound(plain(both, profiles={"fast": FAST, "slow": SLOW}), asked(), rate=1000.0)
    assert bound.attainment * 1000.0 == pytest.approx(1 / (0.002 + 1000 / 20_000), rel=1e-3)


def test_a_world_nobody_can_serve_is_refused():
    hurried = Demand(
        classes=(Class(name="hurried", first_token_s=0.05),),
        sizes=Ranges(prompt_tokens=(1000, 1000), output_tokens=(1, 1)),
    )
    with pytest.raises(WorldError, match="no rate can be served"):
        fluid.full_rate(plain(demand=hurried))


def test_the_headlines_full_rate_is_the_one_recorded():
    (case,) = definitions.read("headline").cases
    assert fluid.full_rate(case.world) == pytest.approx(case.world.full_rate, rel=0.02)


def test_flows_keep_to_arrivals_and_nodes():
    here, plan = world(), poisson(rate=150.0)
    bound = fluid.bound(here, plan, 150.0)
    shares = np.array([kind.share for kind in bound.mix.kinds])
    assert (bound.flows.sum(axis=1) <= shares * 150.0 + 1e-6).all()
    for group, each in enumerate(here.nodes):
        busy = sum(
            bound.flows[k, j] * fluid.prefill(pool.profile, kind.prompt)
            for j, pool in enumerate(bound.pools)
            if pool.group == group
            for k, kind in enumerate(bound.mix.kinds)
        )
        assert busy <= each.count + 1e-6
