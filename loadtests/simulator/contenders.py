"""Every policy by its name: the product's own and the baselines."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.simulator.baselines import blind, counts, litellm, llmd, stargate
from loadtests.simulator.baselines.c3 import C3
from loadtests.simulator.baselines.clairvoyant import Clairvoyant
from loadtests.simulator.baselines.gorgo import Gorgo
from loadtests.simulator.baselines.holding import Holding, Patient
from loadtests.simulator.baselines.peak_ewma import PeakEwma
from loadtests.simulator.baselines.prequal import Prequal
from loadtests.simulator.baselines.routebalance import RouteBalance
from loadtests.simulator.baselines.skywalker import SkyWalker
from loadtests.simulator.contender import DEFAULT, POLICY, Baseline, Contender, Setting, Shipped, Watching
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
from policies.hedge import HedgeConfig
from policies.request import Infeasible

Factory = Callable[[Setting], Contender]


def product(config: PolicyConfig, when_infeasible: tuple[Infeasible, ...] = DEFAULT) -> Factory:
    """The product's router with a policy, and what its route does when nobody can make it, as `gateway.yaml` has it."""

    def make(setting: Setting) -> Contender:
        return Shipped(Fleet(setting.rng), {POLICY: config.build()}, setting.rng, when_infeasible)

    return make


def watching(balancer: Callable[[Setting], Watching]) -> Factory:
    """The product's router around a baseline."""

    def make(setting: Setting) -> Contender:
        return Baseline(balancer(setting), Fleet(setting.rng), setting.rng)

    return make


def holding(balancer: Callable[[Setting], Patient]) -> Factory:
    """The same around one that would rather wait."""

    def make(setting: Setting) -> Contender:
        return Holding(balancer(setting), Fleet(setting.rng), setting.rng)

    return make


def _static_lp(setting: Setting) -> Watching:
    from loadtests.simulator.baselines.static_lp import StaticLp  # brings scipy along, which nobody else here needs

    return StaticLp(setting.world, setting.gateway)


CONTENDERS: dict[str, Factory] = {
    # The product's own.
    "isochrone": product(PolicyConfig()),
    "isochrone_hold": product(PolicyConfig(), (Infeasible.DEGRADE, Infeasible.HOLD, Infeasible.BEST_EFFORT)),
    "isochrone_hedged": product(PolicyConfig(hedge=HedgeConfig())),
    "cheapest_in_deadline": product(PolicyConfig(CheapestInDeadlineConfig())),
    "p2c": product(PolicyConfig(P2CConfig())),
    "least_loaded": product(PolicyConfig(LeastLoadedConfig())),
    "round_robin": product(PolicyConfig(RoundRobinConfig())),
    "nearest": product(PolicyConfig(NearestConfig())),
    "lowest_cost": product(PolicyConfig(LowestCostConfig())),
    # Baselines, from the blind to the clairvoyant.
    "random": watching(lambda _: blind.Random()),
    "lowest_price": watching(lambda _: blind.LowestPrice()),
    "stale_jsq": watching(lambda _: counts.StaleJsq()),
    "least_outstanding": watching(lambda _: counts.LeastOutstanding()),
    "peak_ewma": watching(lambda _: PeakEwma()),
    "c3": watching(lambda setting: C3(setting.gateways)),
    "prequal": watching(lambda _: Prequal()),
    "litellm_latency": watching(lambda _: litellm.LowestLatency()),
    "litellm_cost": watching(lambda setting: litellm.LowestCost(setting.gateways)),
    "llmd_scorers": watching(lambda _: llmd.Scorers()),
    "llmd_headroom": watching(lambda _: llmd.Headroom()),
    "stargate_power": watching(lambda _: stargate.PowerOfN()),
    "stargate_widen": holding(lambda _: stargate.WaitAndWiden()),
    "gorgo": watching(lambda _: Gorgo()),
    "skywalker": holding(lambda setting: SkyWalker(setting.gateway)),
    "routebalance": watching(lambda _: RouteBalance()),
    "static_lp": watching(_static_lp),
    "clairvoyant": watching(lambda setting: Clairvoyant(setting, congestion=True)),
    "clairvoyant_myopic": watching(lambda setting: Clairvoyant(setting, congestion=False)),
}


def make(policy: str, setting: Setting) -> Contender:
    """One gateway's decider. Raises WorldError for a name nobody has."""
    factory = CONTENDERS.get(policy)
    if factory is None:
        raise WorldError(f"no policy is called {policy!r}; there are {', '.join(sorted(CONTENDERS))}")
    return factory(setting)
