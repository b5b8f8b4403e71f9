"""Policies as configuration: frozen structs that build their own objects.

The tagged union of balancers is their registry: adding one means adding a struct with a `build`. Unknown keys and
bad values are refused by msgspec with the path of the field.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from policies.admission import AdmissionConfig
from policies.balancers import Balancer
from policies.balancers.cheapest_in_deadline import CheapestInDeadline
from policies.balancers.least_loaded import LeastLoaded
from policies.balancers.lowest_cost import LowestCost
from policies.balancers.nearest import Nearest
from policies.balancers.p2c import P2C
from policies.balancers.round_robin import RoundRobin
from policies.hedge import HedgeConfig
from policies.retry import RetryConfig
from policies.router import Policy


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A balancer by its `kind`."""


class CheapestInDeadlineConfig(_Kind, frozen=True, tag="cheapest_in_deadline"):
    pack: bool = False
    """Fill one of several equally cheap nodes before the next, so that others fall idle and may be stopped."""

    def build(self) -> Balancer:
        return CheapestInDeadline(self.pack)


class P2CConfig(_Kind, frozen=True, tag="p2c"):
    def build(self) -> Balancer:
        return P2C()


class LeastLoadedConfig(_Kind, frozen=True, tag="least_loaded"):
    def build(self) -> Balancer:
        return LeastLoaded()


class RoundRobinConfig(_Kind, frozen=True, tag="round_robin"):
    def build(self) -> Balancer:
        return RoundRobin()


class NearestConfig(_Kind, frozen=True, tag="nearest"):
    def build(self) -> Balancer:
        return Nearest()


class LowestCostConfig(_Kind, frozen=True, tag="lowest_cost"):
    def build(self) -> Balancer:
        return LowestCost()


BalancerConfig = (
    CheapestInDeadlineConfig | P2CConfig | LeastLoadedConfig | RoundRobinConfig | NearestConfig | LowestCostConfig
)


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One policy: a balancer, what to admit, what to repeat, what to hedge."""

    balancer: BalancerConfig = CheapestInDeadlineConfig()
    admission: AdmissionConfig = AdmissionConfig()
    retry: RetryConfig = RetryConfig()
    hedge: HedgeConfig | None = None
    """Off unless given: `hedge: {}` is enough."""

    def build(self, weights: Mapping[str, float] | None = None) -> Policy:
        """`weights`: tenants' shares, where they are not equal."""
        return Policy(self.balancer.build(), self.admission, self.retry, self.hedge, weights)
