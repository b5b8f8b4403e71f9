from policies.config import LowestCostConfig, PolicyConfig
from policies.request import Status
from tests.fleets import request, router, worker


def test_the_cheapest_node_whatever_it_takes():
    r = router(
        worker("near", usd_per_hour=2.0),
        worker("far", region="far", usd_per_hour=1.0),
        rtt={"far": 0.3},
        cheap=PolicyConfig(balancer=LowestCostConfig()),
    )
    decision = r.route(request(policy="cheap", deadline=0.05), 0.0)
    assert (decision.node.worker.id, decision.status) == ("far", Status.BEST_EFFORT)
