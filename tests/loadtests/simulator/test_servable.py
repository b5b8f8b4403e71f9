from typing import Any

import msgspec
import pytest

from loadtests.arrivals import Burst
from loadtests.simulator.servable import check
from loadtests.simulator.world import Fault, FaultKind, Nodes, RoundTrip, Serving
from loadtests.workload import Class
from tests.loadtests.simulator import worlds

FAR = ("far", "far")
REPLACE = msgspec.structs.replace


def asked(*classes: Class, **fields: Any):
    return REPLACE(worlds.DEMAND, classes=classes, **fields)


def nodes(**fields: Any):
    return (
        *worlds.NODES,
        Nodes(**({"name": "new", "region": "east", "profiles": ("fast",), "usd_per_hour": 1} | fields)),
    )


def trips(*, without: tuple[str, str] | None = None, also: tuple[RoundTrip, ...] = ()):
    return tuple(trip for trip in worlds.TRIPS if trip.between != without) + also


def test_a_sound_world_has_no_fault():
    assert check(worlds.world()) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"gateways": ("moon",)}, "gateways: no such region 'moon'; there are east, far, west"),
        ({"nodes": nodes(region="moon")}, "nodes[6].region: no such region 'moon'"),
        (
            {"round_trips": trips(also=(RoundTrip(between=("east", "moon"), min_ms=1, avg_ms=1),))},
            "round_trips[6].between: no such region 'moon'",
        ),
        ({"round_trips": trips(without=("east", "far"))}, "round_trips: 0 entries between east and far"),
        ({"round_trips": trips(without=("far", "far"))}, "round_trips: 0 entries between far and far"),
        (
            {"round_trips": trips(also=(RoundTrip(between=("far", "east"), min_ms=1, avg_ms=1),))},
            "round_trips: 2 entries between east and far",
        ),
        (
            {
                "round_trips": trips(
                    without=("far", "far"), also=(RoundTrip(between=("far", "far"), min_ms=2, avg_ms=1),)
                )
            },
            "round_trips[5].min_ms: 2 is above avg_ms, 1",
        ),
        ({"nodes": nodes(profiles=("quick",))}, "nodes[6].profiles: no such profile 'quick'; there are fast, slow"),
        ({"nodes": nodes(profiles=("fast", "slow"))}, "nodes[6].profiles: one worker has one accelerator"),
        ({"nodes": nodes(name="fast")}, "nodes: 2 entries are called 'fast' in east"),
        ({"nodes": nodes(from_s=10)}, "nodes[6].from_s: they would register after the end, at 10 s"),
        ({"warm_up": 10}, "warm_up: 10 s leave nothing of a run of 10 s"),
        ({"serving": Serving(slow_share=(0.5, 0.1))}, "serving.slow_share: the first of a range is its lower end"),
        (
            {"faults": (Fault(kind=FaultKind.OUTAGE, at=99, target=("east",)),)},
            "faults[0].at: it would begin after the end, at 10 s",
        ),
        (
            {"demand": asked(worlds.TIGHT, bursts=(Burst(at=1, lasts=1, factor=2, origins=("far",)),))},
            "demand.bursts[0].origins: no gateway in 'far'; there are east, west",
        ),
        (
            {"regions": {name: REPLACE(place, demand=0) for name, place in worlds.REGIONS.items()}},
            "regions: none with a gateway has any demand",
        ),
        ({"demand": asked(worlds.TIGHT, worlds.TIGHT)}, "demand.classes: 'tight' stands there 2 times"),
    ],
)
def test_the_field_at_fault_is_named(fields, expected):
    fault = check(worlds.world(**fields))
    assert fault is not None
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 800 prompt tokens on an idle `fast` node: 1.5 ms of way, 2 ms of overhead, 40 ms of prefill.
        (
            Class(name="now", first_token_s=0.04),
            "demand.classes[0] ('now').first_token_s: no policy can serve it: it grants 0.04 s, and an idle node needs "
            "0.0435 s at best for 800 prompt and 60.5 output tokens",
        ),
        (Class(name="now", total_s=0.4), "demand.classes[0] ('now').total_s: no policy can serve it"),
        (
            Class(name="now", token_interval_s=0.006),
            "demand.classes[0] ('now').token_interval_s: no policy can serve it",
        ),
        (
            Class(name="fine", min_quality=1.1),
            "demand.classes[0] ('fine'): no node serves model 'llm' at a quality of 1.1 or more",
        ),
        (Class(name="other", model="x"), "demand.classes[0] ('other'): no node serves model 'x'"),
    ],
)
def test_a_class_nobody_can_serve_is_named_with_the_best_that_could_be_done(kind, expected):
    fault = check(worlds.world(demand=asked(kind)))
    assert fault is not None
    assert fault.startswith(expected)


def test_all_deadlines_of_a_class_must_be_met_by_one_node():
    """One node is quick to begin, another quick to go on, and none is both."""
    begins = REPLACE(worlds.FAST, decode_s=0.1)
    goes_on = REPLACE(worlds.FAST, prefill_tokens_per_s=100.0)
    world = worlds.world(
        profiles={"fast": begins, "slow": goes_on},
        demand=asked(Class(name="c", first_token_s=0.5, token_interval_s=0.01)),
    )
    assert check(world) == "demand.classes[0] ('c'): no policy can serve it: no node meets all of its deadlines at once"


def test_just_enough_is_enough():
    assert check(worlds.world(demand=asked(Class(name="now", first_token_s=0.0436)))) is None
