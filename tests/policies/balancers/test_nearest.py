from policies.config import NearestConfig, PolicyConfig
from tests.fleets import request, router, worker


def test_the_nearest_region_whatever_it_costs():
    dear = (worker("a", usd_per_hour=50.0), worker("b", usd_per_hour=60.0))
    r = router(*dear, worker("far", region="far"), rtt={"far": 0.2}, nearest=PolicyConfig(balancer=NearestConfig()))
    assert {r.route(request(policy="nearest"), 0.0).node.worker.id for _ in range(20)} == {"a", "b"}
