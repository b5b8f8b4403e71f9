"""Runs as a simulation would bring them home, made up: for what only reads runs."""

import random

import msgspec

from loadtests.simulator.result import Bin, Detail, Figures, Run
from loadtests.simulator.world import Nodes, Place, Profile, RoundTrip, World
from loadtests.workload import Class, Demand

REGIONS = ("us-central1", "europe-west4", "asia-northeast1")


def figures(**changed: float) -> Figures:
    base = Figures(
        attainment=0.9, cost_per_1k=0.10, fleet_cost_per_1k=0.50, miss_rate_accepted=0.02, accepted_share=0.95,
        p50_s=0.2, p99_s=1.5, herd_index=1.2, jain=0.99, rejected=0.01, decision_us=40.0,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changed)


def detail(**changed) -> Detail:
    base = Detail(
        offered=1000,
        answered=900,
        by_class={"tight": 0.8, "loose": 1.0},
        by_region=dict.fromkeys(REGIONS, 0.9),
        by_tenant={"": 0.9},
        flows={origin: {worker: 100 if origin == worker else 20 for worker in REGIONS} for origin in REGIONS},
        reliability=(Bin(0.55, 0.40, 50), Bin(0.95, 0.90, 850)),
        brier=0.05,
        ece=0.02,
        queue_times=(0.0, 10.0, 20.0),
        queues=dict.fromkeys(REGIONS, (0.0, 5.0, 2.5)),
        utilisation={"H100": 0.4},
        energy_j_per_request=100.0,
        co2_g_per_request=0.01,
        mean_quality=1.0,
        degraded=0.0,
        retries=3,
        hedges=0,
        messages_per_request=2.0,
        total_p50_s=2.0,
        total_p99_s=9.0,
        recovery_s=None,
    )
    return msgspec.structs.replace(base, **changed)


def run(policy: str = "isochrone", seed: int = 1, case=None, scenario: str = "made-up", **changed) -> Run:
    """A run whose figures are the base's but for those named; what `detail` has of that name goes there."""
    of_detail = {name: changed.pop(name) for name in tuple(changed) if name in Detail.__struct_fields__}
    return Run(
        scenario=scenario, case=case or {}, policy=policy, seed=seed,
        figures=figures(**changed), detail=detail(**of_detail), requests=1200, cpu_s=0.5,
    )  # fmt: skip


def runs(attainments: dict[str, float], seeds: int = 4, case=None, spread: float = 0.01, **changed) -> list[Run]:
    """Every policy around its own mean; a seed's weather is the same for all."""
    weather = [random.Random(seed).uniform(-spread, spread) for seed in range(1, seeds + 1)]
    return [
        run(policy, seed, case, attainment=mean + weather[seed - 1], **changed)
        for policy, mean in attainments.items()
        for seed in range(1, seeds + 1)
    ]


def world(**changed) -> World:
    """Three regions, one kind of accelerator, two classes of deadlines."""
    places = {"us-central1": (41.3, -95.9), "europe-west4": (53.4, 6.8), "asia-northeast1": (35.7, 139.7)}
    base = World(
        name="made-up",
        about="Three regions for the tests.",
        regions={name: Place(latitude=latitude, longitude=longitude) for name, (latitude, longitude) in places.items()},
        round_trips=(RoundTrip(between=("us-central1", "asia-northeast1"), min_ms=120, avg_ms=127),),
        profiles={"h100": Profile(accelerator="H100", prefill_tokens_per_s=30_000)},
        nodes=(Nodes(name="h100", region="us-central1", profiles=("h100",), count=4, usd_per_hour=3.5),),
        gateways=REGIONS,
        demand=Demand(
            classes=(
                Class(name="tight", share=3, first_token_s=0.4),
                Class(name="loose", share=1, first_token_s=15.0, total_s=60.0),
            )
        ),
    )
    return msgspec.structs.replace(base, **changed)
