import numpy as np
import pytest

from policies.records import Curve
from policies.request import LoadSeen, Selection, WorkerGone
from tests.fleets import MODEL, endpoint, load, request, router, worker


def many(count: int):
    return router(*(worker(f"w{i}", region=f"r{i % 3}", usd_per_hour=1.0 + i) for i in range(count)))


def test_columns_grow_and_keep_what_they_hold():
    r = many(30)
    columns = r.fleet.columns(MODEL)
    assert len(columns.fixed) == len(columns.nodes) == 30
    asked = request(deadline=9.0)
    assert all(len(array) == 30 for array in columns.evaluate(asked, 0.0))
    for i, node in enumerate(columns.nodes):
        assert node.slot == i
        assert columns.usd[i] == np.float32(node.rates.request)


def test_removal_moves_the_last_node_into_the_gap():
    r = many(10)
    columns = r.fleet.columns(MODEL)
    r.observe(WorkerGone("w3"), 0.0)
    assert sorted(n.worker.id for n in columns.nodes) == sorted(f"w{i}" for i in range(10) if i != 3)
    for i, node in enumerate(columns.nodes):
        assert (node.slot, node.columns) == (i, columns)
        assert columns.usd[i] == np.float32(node.rates.request)


def test_columns_agree_with_the_nodes_own_figures():
    record = worker("w", egress_usd_per_gb=0.1, endpoints=(endpoint(curve=Curve(0.1, 0.02, 0.001, 0.01)),))
    r = router(record, rtt={"w": 0.05})
    node, columns = r.fleet.nodes()[0], r.fleet.columns(MODEL)
    asked = request(prompt_tokens=50, output_tokens=10, output_deviation=4, items=3, reply_bytes=5000)
    eta = node.eta(asked, 0.0)
    total, spread, cost = columns.evaluate(asked, asked.output_tokens)
    assert total[0] == pytest.approx(eta.total, rel=1e-5)
    assert spread[0] == pytest.approx(eta.spread, rel=1e-5)
    assert cost[0] == pytest.approx(node.cost(asked), rel=1e-5)
    first, _, _ = columns.evaluate(asked, 0.0)
    assert first[0] == pytest.approx(eta.first_token, rel=1e-5)


def test_price_caps_are_per_million_tokens():
    record = worker("w", usd_per_hour=3.6, endpoints=(endpoint(curve=Curve(0.0, 0.0, 0.001, 0.01)),))
    columns = router(record).fleet.columns(MODEL)  # 1e-6 $ a prompt token: $1 per million; output $10
    for cap, allowed in ((1.01, True), (0.99, False)):
        asked = request(selection=Selection(max_input_usd_per_mtok=cap))
        assert bool(columns.eligible(asked, 0.0, (), 0.5)[0]) is allowed
    for cap, allowed in ((10.1, True), (9.9, False)):
        asked = request(selection=Selection(max_output_usd_per_mtok=cap))
        assert bool(columns.eligible(asked, 0.0, (), 0.5)[0]) is allowed


def test_several_changes_of_a_node_are_written_once():
    r = many(2)
    columns = r.fleet.columns(MODEL)
    for seq, backlog in enumerate((1.0, 3.0), 2):
        r.observe(LoadSeen(load("w1", seq=seq, waiting=30, running=1, backlog=backlog), 0.0), 0.0)
    assert [node.worker.id for node in columns.changed] == ["w1"]
    assert columns.eligible(request(), 0.0, (), 0.5).all()
    assert not columns.changed
    assert columns.wait.tolist() == [0.0, 3.0]
