"""The fast pick equals the readable one: the same node for the same seed, on random fleets and requests."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.balancers.pipeline import CHEAPEST_IN_DEADLINE
from policies.records import Curve, MarginalPrice, ReservedPrice, TokenPrice
from policies.request import Dispatch, Infeasible, LoadSeen, RoundTrip, Selection
from tests.fleets import MODEL, endpoint, load, request, router, worker

milliseconds = st.integers(0, 400).map(lambda ms: ms / 1e3)
curves = st.builds(Curve, milliseconds, milliseconds, st.just(1e-5), st.integers(0, 20).map(lambda ms: ms / 1e3))
prices = st.one_of(
    st.builds(ReservedPrice, st.integers(1, 50).map(float)),
    st.builds(MarginalPrice, st.integers(1, 50).map(float)),
    st.builds(TokenPrice, st.integers(0, 9).map(float), st.integers(0, 9).map(float), st.just(1e-6)),
)

qualities = st.sampled_from([0.9, 0.97, 1.0])


@st.composite
def fleets(draw):
    count = draw(st.integers(1, 12))
    records, rtt = [], {}
    for i in range(count):
        name = f"w{i}"
        variants = draw(st.lists(st.sampled_from(["fp32", "int8", "int4"]), min_size=1, max_size=2, unique=True))
        points = tuple(
            endpoint(variant=v, curve=draw(curves), quality=draw(qualities), max_batch=draw(st.sampled_from([1, 8])))
            for v in variants
        )
        region = draw(st.sampled_from(["eu-a", "eu-b", "us-a"]))
        records.append(worker(name, price=draw(prices), region=region, endpoints=points))
        rtt[name] = draw(st.sampled_from([0.001, 0.05, 0.2]))
    result = router(*records, rtt=rtt, seed=draw(st.integers(0, 9)))
    for i in range(count):
        waiting = draw(st.integers(0, 30))
        backlog = draw(st.one_of(st.none(), milliseconds))
        result.observe(LoadSeen(load(f"w{i}", 2, waiting=waiting, running=1, backlog=backlog), 0.01), 0.5)
        result.observe(RoundTrip(f"w{i}", draw(milliseconds)), 0.5)
    return result


requests = st.builds(
    request,
    deadline=st.one_of(st.just(float("inf")), st.integers(501, 3000).map(lambda ms: ms / 1e3)),
    first_token_deadline=st.one_of(st.just(float("inf")), st.integers(501, 2000).map(lambda ms: ms / 1e3)),
    token_interval=st.one_of(st.just(float("inf")), st.just(0.015)),
    probability=st.sampled_from([0.90, 0.95, 0.98, 0.99]),
    prompt_tokens=st.integers(0, 4000).map(float),
    output_tokens=st.integers(0, 300).map(float),
    items=st.integers(1, 9),
    reply_bytes=st.integers(0, 9999).map(float),
    quality=st.sampled_from([0.0, 0.95, 1.0]),
    max_cost=st.sampled_from([float("inf"), 1e-3]),
    selection=st.sampled_from([Selection(), Selection(regions=(("eu-*",),)), Selection(variants=("int8",))]),
    when_infeasible=st.just((Infeasible.REJECT,)),
)


@settings(max_examples=300, deadline=None)
@given(fleets(), requests, st.sets(st.sampled_from(["w0", "w1", "w2"]), max_size=2), st.integers(0, 2**32))
def test_the_fast_pick_is_the_readable_one(house, asked, avoid, seed):
    asked = request(**{name: getattr(asked, name) for name in asked.__struct_fields__} | {"min_quality": asked.quality})
    columns = house.fleet.columns(MODEL)
    expected = CHEAPEST_IN_DEADLINE.pick(columns, asked, 0.5, random.Random(seed), avoid)
    house._rng.seed(seed)
    decision = house.route(asked, 0.5, tuple(avoid))
    assert (decision.node if isinstance(decision, Dispatch) else None) is expected


@settings(max_examples=100, deadline=None)
@given(fleets(), requests)
def test_feasible_means_allowed_in_time_and_in_the_cheapest_tier(house, asked):
    decision = house.route(asked, 0.5)
    if isinstance(decision, Dispatch):
        node = decision.node
        assert node.endpoint.quality >= asked.quality
        assert decision.cost <= asked.max_cost
        if not asked.patient:
            assert decision.eta.total <= asked.deadline - 0.5 + 1e-4


@settings(max_examples=100, deadline=None)
@given(fleets(), st.integers(600, 3000))
def test_doubling_every_price_changes_no_choice(house, ms):
    """Metamorphic: only ratios of prices matter to who is chosen."""
    asked = request(deadline=ms / 1e3, prompt_tokens=100.0)
    columns = house.fleet.columns(MODEL)
    before = CHEAPEST_IN_DEADLINE.pick(columns, asked, 0.5, random.Random(1))
    for name in ("usd", "usd_prompt", "usd_output", "usd_item", "usd_byte"):
        getattr(columns, name)[:] *= 2
    assert CHEAPEST_IN_DEADLINE.pick(columns, asked, 0.5, random.Random(1)) is before
