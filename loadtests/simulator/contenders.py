"""Every policy by its name: the product's own and the baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadtests.simulator.contender import POLICY, Baseline, Contender, Setting, Shipped, Watching
from loadtests.simulator.world import WorldError
from policies.config import (
    CheapestInDeadlineConfig,
    LeastLoadedConfig,
    LowestCostConfig,
    NearestConfig,
    P2CConfig,
    PolicyConfig,
    RoundRobinConfig,
)
from policies.fleet import Fleet

Factory = Callable[[Setting], Contender]


def product(balancer: Any = None) -> Factory:
    """The product's router with a policy made as `gateway.yaml` makes it; without a balancer the default one."""
    config = PolicyConfig() if balancer is None else PolicyConfig(balancer)

    def make(setting: Setting) -> Contender:
        return Shipped(Fleet(setting.rng), {POLICY: config.build()}, setting.rng)

    return make


def watching(balancer: Callable[[Setting], Watching]) -> Factory:
    """The product's router around a baseline."""

    def make(setting: Setting) -> Contender:
        return Baseline(balancer(setting), Fleet(setting.rng), setting.rng)

    return make


CONTENDERS: dict[str, Factory] = {
    # The product's own.
    "isochrone": product(),
    "cheapest_in_deadline": product(CheapestInDeadlineConfig()),
    "p2c": product(P2CConfig()),
    "least_loaded": product(LeastLoadedConfig()),
    "round_robin": product(RoundRobinConfig()),
    "nearest": product(NearestConfig()),
    "lowest_cost": product(LowestCostConfig()),
}


def make(policy: str, setting: Setting) -> Contender:
    """One gateway's decider. Raises WorldError for a name nobody has."""
    factory = CONTENDERS.get(policy)
    if factory is None:
        raise WorldError(f"no policy is called {policy!r}; there are {', '.join(sorted(CONTENDERS))}")
    return factory(setting)
