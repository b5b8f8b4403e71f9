from policies.config import P2CConfig, PolicyConfig
from policies.request import LoadSeen
from tests.fleets import load, request, router, worker


def test_the_busiest_node_of_three_gets_nothing():
    r = router(*(worker(n) for n in "abc"), p2c=PolicyConfig(balancer=P2CConfig()))
    r.observe(LoadSeen(load("a", 2, waiting=1000, running=1), 0.0), 0.0)
    assert {r.route(request(policy="p2c"), 0.0).node.worker.id for _ in range(50)} == {"b", "c"}
