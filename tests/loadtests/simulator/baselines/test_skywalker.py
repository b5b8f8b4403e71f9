from loadtests.simulator.baselines.skywalker import PROBE_S, SkyWalker
from policies.request import Hold
from tests.fleets import worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena

HERE = tuple(worker(name, region="here", endpoints=(ENDPOINT,)) for name in ("h1", "h2"))
NEAR = worker("near", region="near", endpoints=(ENDPOINT,))
FAR = worker("far", region="far", endpoints=(ENDPOINT,))
RTT = {"near": 0.03, "far": 0.2}


def arena() -> Arena:
    return Arena(SkyWalker("here"), *HERE, NEAR, FAR, rtt=RTT)


def test_one_request_each_until_the_next_look_then_next_door_then_nobody():
    stage = arena()
    places = [stage.send().node.worker.id for _ in range(4)]
    assert set(places[:2]) == {"h1", "h2"}
    assert places[2:] == ["near", "far"]
    held = stage.route()
    assert isinstance(held, Hold)
    assert held.until == PROBE_S


def test_an_empty_queue_opens_a_replica_again_though_it_works():
    stage = arena()
    for _ in range(4):
        stage.send()
    stage.loaded("h2", 0.1, running=5)
    assert stage.send(0.1).node.worker.id == "h2"


def test_a_queue_closes_it():
    stage = arena()
    for name in ("h1", "h2"):
        stage.loaded(name, waiting=1)
    assert stage.send().node.worker.id == "near"


def test_every_replica_is_looked_at_each_100_ms():
    stage = arena()
    stage.send()
    assert set(stage.router.probes()) == {"h1", "h2", "near", "far"}
    stage.send(PROBE_S / 2)
    assert stage.router.probes() == []
    stage.send(PROBE_S)
    assert len(stage.router.probes()) == 4


def test_of_several_the_one_with_fewest_of_our_own():
    stage = arena()
    first = stage.send()
    stage.loaded("h1", 0.2)
    stage.loaded("h2", 0.2)
    assert stage.send(0.2).node is not first.node
