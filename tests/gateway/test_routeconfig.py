import msgspec
import pytest

from gateway.routeconfig import Regions, RouteConfig
from policies.config import PolicyConfig
from policies.request import Infeasible


def test_an_empty_route_is_the_house_policy_without_a_deadline_shadow_or_extra_cost():
    route = RouteConfig()
    assert (route.match.model, route.policy, route.shadow) == ("*", "cheapest_in_deadline", None)
    assert route.deadline.total_ms is route.deadline.ttft_ms is route.deadline.tpot_ms is None
    assert (route.cost.carbon_usd_per_kg, route.cost.energy_usd_per_kwh) == (0.0, 0.0)
    assert route.when_infeasible == (Infeasible.DEGRADE, Infeasible.BEST_EFFORT)


def test_a_policy_is_a_name_or_written_out():
    assert isinstance(msgspec.convert({"policy": {"balancer": {"kind": "p2c"}}}, RouteConfig).policy, PolicyConfig)
    assert msgspec.convert({"policy": "mine"}, RouteConfig).policy == "mine"


@pytest.mark.parametrize("key", ["de", "Germany", "other", ""])
def test_rows_are_countries_default_or_unknown(key):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"by_country": {key: ["eu"]}}, Regions)
    for known in ("DE", "default", "unknown"):
        assert msgspec.convert({"by_country": {known: ["eu"]}}, Regions).by_country == {known: ("eu",)}
