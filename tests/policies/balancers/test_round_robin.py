from policies.config import PolicyConfig, RoundRobinConfig
from tests.fleets import request, router, worker


def test_every_node_in_turn():
    r = router(*(worker(n) for n in "abc"), rr=PolicyConfig(balancer=RoundRobinConfig()))
    order = [r.route(request(policy="rr"), 0.0).node.worker.id for _ in range(6)]
    assert order == list("abcabc")
