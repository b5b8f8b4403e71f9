"""docs/results.md: says what the figures say, defeats included."""

import msgspec
import pytest

from loadtests.simulator import markdown
from loadtests.simulator.goals import HEARTBEAT, LOAD, QUEUE
from loadtests.simulator.statistics import Limit, gather
from tests.loadtests.simulator import specimens

WORLD = specimens.world()


def grid(ours: float, theirs: float):
    comparisons = []
    for queue in ("fifo", "edf"):
        for load in (0.5, 0.7):
            label = {QUEUE: queue, HEARTBEAT: 1.0, LOAD: load}
            (made,) = gather(specimens.runs({"isochrone": ours, "prequal": theirs, "clairvoyant": 0.99}, case=label))
            comparisons.append(msgspec.structs.replace(made, limit=Limit(1.0, 0.05, 0.97, 0.06)))
    return comparisons


def rendered(ours: float, theirs: float) -> str:
    comparisons = grid(ours, theirs)
    return markdown.render(comparisons, WORLD, markdown.circumstances(comparisons, 2, 90.0))


@pytest.fixture(scope="module")
def won() -> str:
    return rendered(0.97, 0.87)


def test_how_it_was_made_is_said(won):
    # 4 cases x 3 policies x 4 seeds of 1,200 requests.
    assert "57,600 simulated requests in 48 runs: 4 cases, 4 paired seeds each. Made by `make sim` on 20" in won
    assert f"{markdown.processor()}, " in won
    assert "0 CPU minutes, 1.5 minutes with 2 processes" in won


def test_what_was_interrupted_claims_no_duration():
    comparisons = grid(0.97, 0.87)
    text = markdown.render(comparisons, WORLD, markdown.circumstances(comparisons, 2, None))
    assert "0 CPU minutes, in several sittings)." in text


def test_every_table_is_as_wide_as_its_head(won):
    width = None
    for line in won.splitlines():
        if line.startswith("|"):
            width = width or line.count("|")
            assert line.count("|") == width, line
        else:
            width = None


def test_both_queues_have_their_grid_with_the_bound_below(won):
    for queue in ("FIFO", "EDF"):
        part = won.split(f"### {queue} queues, heartbeats of 1 s (4 seeds)")[1]
        rows = part.split("\n\n")[1].splitlines()
        assert rows[0] == "| policy | % load 0.5 | % load 0.7 | $ load 0.5 | $ load 0.7 |"
        assert rows[-2] == "| fluid bound | 100.0 | 100.0 | 0.0500 | 0.0500 |"
        assert rows[-1] == "| fluid, steady | 97.0 | 97.0 | 0.0600 | 0.0600 |"


def test_a_win_and_a_defeat_are_both_told():
    won, lost = rendered(0.97, 0.87), rendered(0.80, 0.87)
    assert "isochrone (the shipped policy) kept the most deadlines" in won
    assert "| Attainment over Prequal, FIFO, load 0.7 | at least +8 points | +10.0 ± 0.0 points | met |" in won
    assert "another policy kept more deadlines" not in won
    assert "prequal kept the most deadlines" in lost
    assert "| -7.0 ± 0.0 points | **missed** |" in lost
    assert "In 4 of 4 cases another policy kept more deadlines beyond doubt:" in lost
    assert "  - FIFO queue, heartbeat 1 s, load 0.7: prequal +7.0 ± 0.0 points" in lost


def test_classes_stand_in_the_order_of_the_demand(won):
    head = next(line for line in won.splitlines() if "fifo tight" in line)
    assert head == "| policy | fifo tight | fifo loose | edf tight | edf loose |"


def test_the_world_and_the_way_to_reproduce_it_are_there(won):
    assert "| Fleet | 4 workers: 4 H100 ($3.50 an hour) |" in won
    assert "make sim-all" in won
    # 1,200 requests in half a second of CPU each.
    assert "144,000 requests a minute" in won
