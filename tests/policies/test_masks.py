import msgspec
import numpy as np
import pytest

from policies.masks import allows, in_regions
from policies.request import Selection, WorkerGone
from tests.fleets import MODEL, request, router, worker


def many(count: int):
    return router(*(worker(f"w{i}", region=f"r{i % 3}", usd_per_hour=1.0 + i) for i in range(count)))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(regions=(("r0", "r1"),)), {"w0", "w1", "w3", "w4"}),
        (Selection(regions=(("r*",), ("r2",))), {"w2", "w5"}),
        (Selection(only=("w1", "r2")), {"w1", "w2", "w5"}),
        (Selection(ignore=("r0", "w1")), {"w2", "w4", "w5"}),
        (Selection(variants=("int8",)), set()),
        (Selection(regions=(("eu-*",),)), set()),
    ],
)
def test_selections(selection, expected):
    r = many(6)
    columns = r.fleet.columns(MODEL)
    mask = columns.eligible(request(selection=selection), 0.0, (), 0.5)
    assert {columns.nodes[i].worker.id for i in np.flatnonzero(mask)} == expected


def test_masks_follow_membership():
    r = many(3)
    columns = r.fleet.columns(MODEL)
    selection = Selection(only=("w0", "w2"))
    assert columns.masks.selected(selection).tolist() == [True, False, True]
    r.observe(WorkerGone("w0"), 0.0)
    assert columns.masks.selected(selection).sum() == 1


def test_a_node_that_does_not_say_where_it_is_fits_no_region_not_even_any():
    nowhere, anywhere = Selection(regions=(("*",),)), Selection()
    assert not in_regions(nowhere, "")
    assert in_regions(anywhere, "")
    assert in_regions(nowhere, "eu")
    (node,) = router(worker("w")).fleet.nodes()
    node.worker = msgspec.structs.replace(node.worker, region="")
    assert not allows(nowhere, node)


def test_a_request_by_grpc_needs_a_node_that_is_reached_by_it():
    fleet = router(worker("http"), worker("both", grpc_address="127.0.0.1:9001")).fleet
    columns, selection = fleet.columns("chat"), Selection(grpc=True)
    chosen = [node.worker.id for node in columns.nodes if columns.masks.selected(selection)[node.slot]]
    assert chosen == ["both"]
    assert [node.worker.id for node in columns.nodes if allows(selection, node)] == ["both"]


def test_what_is_made_of_the_records_is_kept_until_one_changes():
    r = many(3)
    masks = r.fleet.columns(MODEL).masks
    made = [masks.kept("ids", lambda nodes: [node.worker.id for node in nodes]) for _ in range(2)]
    assert made[0] is made[1] == ["w0", "w1", "w2"]
    r.observe(WorkerGone("w0"), 0.0)
    assert masks.kept("ids", len) == 2
