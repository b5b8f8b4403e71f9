import random

from policies.balancers.pipeline import CHEAPEST_IN_DEADLINE, Pipeline, accepting, price
from tests.fleets import MODEL, request, router, worker


def house():
    return router(worker("near", usd_per_hour=4.0), worker("far", region="far"), rtt={"far": 0.2})


def test_it_reads_like_the_rule():
    columns = house().fleet.columns(MODEL)
    pick = CHEAPEST_IN_DEADLINE.pick
    assert pick(columns, request(deadline=2.0), 0.0, random.Random(1)).worker.id == "far"
    assert pick(columns, request(deadline=0.1), 0.0, random.Random(1)).worker.id == "near"
    assert pick(columns, request(deadline=0.001), 0.0, random.Random(1)) is None
    assert pick(columns, request(deadline=2.0), 0.0, random.Random(1), avoid=("far",)).worker.id == "near"


def test_parts_can_be_composed_for_experiments():
    dearest = Pipeline((accepting,), lambda view: -price(view), lambda scored, _: min(scored, key=lambda s: s[0])[1])
    assert dearest.pick(house().fleet.columns(MODEL), request(), 0.0, random.Random(1)).worker.id == "near"
