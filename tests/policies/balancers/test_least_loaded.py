from policies.config import LeastLoadedConfig, PolicyConfig
from policies.request import LoadSeen
from tests.fleets import load, request, router, worker


def test_the_least_outstanding_node_is_filled_first():
    r = router(*(worker(n) for n in "abc"), least=PolicyConfig(balancer=LeastLoadedConfig()))
    r.observe(LoadSeen(load("a", 2, waiting=3, running=1), 0.0), 0.0)
    r.observe(LoadSeen(load("b", 2, waiting=2, running=0), 0.0), 0.0)
    order = [r.route(request(policy="least"), 0.0).node.worker.id for _ in range(3)]
    assert order[:2] == ["c", "c"], "our own dispatches count at once"
