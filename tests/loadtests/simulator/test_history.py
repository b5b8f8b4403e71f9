"""A history as a plan and a world."""

import itertools
import math

import msgspec
import pytest

from loadtests.simulator.history import History, Past, account, cut, plan, quantile, world
from loadtests.simulator.servable import check
from loadtests.simulator.world import CostMode, WorldError
from loadtests.workload import Class
from policies.decision import Group, Served
from policies.records import Curve, MarginalPrice, ReservedPrice, TokenPrice

ANY = Class(name="any", model="m")
GROUP = Group(
    mark="l4", region="eu", count=2, accelerator="L4", price=MarginalPrice(2.0),
    serves=(Served("m", "int8", Curve(0.01, prefill=0.001, decode=0.002), 4, 0.9, speed=1.5, pace=1.2),),
)  # fmt: skip


def past(at, **fields):
    return Past(**({"at": at, "region": "eu", "kind": ANY, "prompt_tokens": 10.0, "output_tokens": 5.0} | fields))


def history(*requests, **fields):
    known = {"source": "log", "fleet": (GROUP,), "trips": {("eu", "eu"): (0.01, 0.001)}, "gateways": ("eu",)}
    return History(past=requests, **(known | fields))


def test_what_stands_for_itself_comes_as_it_came():
    made = plan(history(past(100.0), past(100.5, output_tokens=7.0), past(103.0, tenant="acme")), seed=1)
    assert [one.at for one in made] == [0.0, 0.5, 3.0]
    assert [one.number for one in made] == [0, 1, 2]
    assert (made[1].output_tokens, made[2].tenant, made[0].origin, made[0].prompt_tokens) == (7, "acme", "eu", 10)


def test_what_stands_for_many_comes_so_often_between_its_neighbours():
    log = history(*(past(100.0 + second, stands_for=10.0) for second in range(100)))
    made = plan(log, seed=1)
    assert len(made) == 1000
    for index in range(1, 99):  # its share of every stretch is as it was
        assert sum(index - 0.5 <= one.at < index + 0.5 for one in made) == 10
    assert all(a.at <= b.at for a, b in itertools.pairwise(made))
    assert plan(log, seed=1) == made
    assert plan(log, seed=2) != made


def test_a_fraction_is_drawn():
    made = plan(history(*(past(float(second), stands_for=2.5) for second in range(1000))), seed=3)
    assert 2500 - 5 * 16 <= len(made) <= 2500 + 5 * 16  # binomial(1000, 0.5): deviation 15.8


def test_who_got_no_answer_wants_one_as_long_as_others_did():
    made = plan(history(past(0.0, output_tokens=42.0), past(1.0, output_tokens=None)), seed=1)
    assert made[1].output_tokens == 42
    assert plan(history(past(0.0, output_tokens=None)), seed=1)[0].output_tokens == 1


def test_items_weigh_as_the_tokens_they_take_the_time_of():
    serves = (Served("m", "v", Curve(0.01, item=0.004, prefill=0.001)),)
    log = history(past(0.0, items=3), fleet=(msgspec.structs.replace(GROUP, serves=serves),))
    assert plan(log, seed=1)[0].prompt_tokens == 10 + 2 * 4


def test_where_tokens_take_no_time_only_items_do():
    serves = (Served("m", "v", Curve(0.01, item=0.004)),)
    log = history(past(0.0, items=3), fleet=(msgspec.structs.replace(GROUP, serves=serves),))
    assert plan(log, seed=1)[0].prompt_tokens == 2
    (profile,) = world(log).profiles.values()
    assert profile.overhead_s + 2 / profile.prefill_tokens_per_s == pytest.approx(0.018)


def test_the_world_is_the_fleet_at_the_speed_that_was_learned():
    made = world(history(past(0.0), past(20.0)))
    assert check(made) is None
    (nodes,) = made.nodes
    profile = made.profiles[nodes.profiles[0]]
    assert (nodes.region, nodes.count, nodes.usd_per_hour, profile.slots, profile.quality) == ("eu", 2, 2.0, 4, 0.9)
    assert profile.prefill_tokens_per_s == pytest.approx(1000 / 1.5)
    assert (profile.overhead_s, profile.decode_s) == pytest.approx((0.015, 0.0024))
    assert (made.seconds, made.warm_up, made.gateways) == (pytest.approx(20.0, abs=0.01), 4.0, ("eu",))


def test_what_company_does_to_decoding_is_kept():
    serves = (Served("m", "v", Curve(0.01, decode=0.012, decode_batch=0.002)),)
    (profile,) = world(history(past(0.0), fleet=(msgspec.structs.replace(GROUP, serves=serves),))).profiles.values()
    assert (profile.decode_s, profile.decode_batch_s) == pytest.approx((0.010, 0.002))  # alone it takes both


def test_prices_make_work_cost_what_it_did():
    billed = {("l4", "m", "int8"): 3.0}
    assert world(history(past(0.0), billed=billed)).nodes[0].usd_per_hour == 6.0
    other = world(history(past(0.0), billed={("t4", "m", "int8"): 0.5}))  # nobody was billed here: as elsewhere
    assert other.nodes[0].usd_per_hour == 1.0
    (token,) = world(history(past(0.0), fleet=(msgspec.structs.replace(GROUP, price=TokenPrice(1.0, 4.0)),))).nodes
    assert (token.cost, token.input_usd_per_mtok, token.output_usd_per_mtok) == (CostMode.TOKEN, 1.0, 4.0)


def test_reserved_capacity_stays_reserved():
    (paid,) = world(history(past(0.0), fleet=(msgspec.structs.replace(GROUP, price=ReservedPrice(3.0)),))).nodes
    assert (paid.cost, paid.usd_per_hour) == (CostMode.RESERVED, 3.0)


def test_ways_nobody_measured_go_by_a_gateway_that_measured_both():
    fleet = tuple(msgspec.structs.replace(GROUP, region=region) for region in ("eu", "us", "asia"))
    trips = {("eu", "eu"): (0.001, 0.0001), ("eu", "us"): (0.1, 0.002), ("eu", "asia"): (0.25, 0.004)}
    made = world(history(past(0.0), fleet=fleet, trips=trips))
    assert check(made) is None
    assert made.round_trip("us", "asia").avg_ms == pytest.approx(350)
    far = made.round_trip("eu", "us")
    assert far.avg_ms == pytest.approx(100)
    assert far.mdev_ms == pytest.approx(2.5066)
    assert far.min_ms == pytest.approx(100 - 2 * 2.5066)
    with pytest.raises(WorldError, match="round trip between 'asia' and 'eu'"):
        world(history(past(0.0), fleet=fleet, trips={("eu", "eu"): (0.001, 0.0001)}))


def test_a_history_nobody_could_serve_is_refused():
    with pytest.raises(WorldError, match="no worker"):
        world(history(past(0.0), fleet=()))
    with pytest.raises(WorldError, match="no worker serves"):
        world(history(past(0.0, kind=Class(name="x", model="other"))))


def test_a_long_one_is_cut_and_says_so():
    log = history(*(past(float(second), stands_for=10.0) for second in range(100)))
    short = cut(log, 250)
    assert len(short.past) == 25
    assert "24 s" in short.notes[0]
    assert cut(log, 1000) is log


def test_figures_weigh_what_stands_for_more():
    figures = account(
        [
            past(0.0, met=True, first=0.1, total=1.0, cost=0.01, served="eu", stands_for=3.0),
            past(1.0, first=0.5, total=2.0, cost=0.02, served="us", attempts=2),
            past(2.0, refused=True, attempts=0),
        ]
    )
    assert (figures.requests, figures.attainment, figures.missed) == (5.0, 0.6, 2.0)
    assert figures.cost == pytest.approx(0.05)
    assert figures.cost_per_1k == pytest.approx(0.05 / 3 * 1000)
    assert (figures.rejected, figures.attempts) == (0.2, 1.0)
    assert (figures.first_p50_s, figures.first_p99_s, figures.total_p99_s) == (0.1, 0.5, 2.0)
    assert figures.regions == {"eu": 0.75, "us": 0.25}


def test_nobody_in_time_has_no_finite_cost():
    figures = account([past(0.0)])
    assert math.isinf(figures.cost_per_1k)
    assert math.isnan(figures.first_p50_s)


@pytest.mark.parametrize(("share", "value"), [(0.5, 1.0), (0.75, 1.0), (0.76, 2.0), (0.99, 2.0)])
def test_quantiles_count_weights(share, value):
    assert quantile([(2.0, 1.0), (1.0, 3.0), (None, 100.0)], share) == value
