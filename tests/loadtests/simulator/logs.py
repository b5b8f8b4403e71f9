"""Decision logs made by the simulator itself: a small world that is known exactly, written as a gateway would."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from loadtests.simulator.contender import POLICY, Setting, Shipped
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import Control, Nodes, Place, Profile, RoundTrip, Serving, World
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand
from policies.config import PolicyConfig
from policies.cost import bill
from policies.decision import Group, Opened, Served, Surveyed, decided, encode, mark
from policies.fleet import Fleet
from policies.records import MarginalPrice
from policies.request import Dispatch, Outcome

EPOCH = 1_700_000_000.0
FAST = Profile(
    accelerator="fast", prefill_tokens_per_s=20_000, overhead_s=0.005, decode_s=0.004, decode_batch_s=0.0, slots=16
)
SLOW = Profile(accelerator="slow", prefill_tokens_per_s=4_000, overhead_s=0.01, decode_s=0.012, slots=8)


def small_world(seconds: float = 30.0, rate: float = 40.0) -> World:
    """Dear near, cheap far; two gateways."""
    return World(
        name="small",
        regions={name: Place(latitude=0, longitude=0) for name in ("eu", "us")},
        round_trips=(
            RoundTrip(between=("eu", "eu"), min_ms=0.8, avg_ms=1, mdev_ms=0.1),
            RoundTrip(between=("us", "us"), min_ms=0.8, avg_ms=1, mdev_ms=0.1),
            RoundTrip(between=("eu", "us"), min_ms=98, avg_ms=100, mdev_ms=1),
        ),
        profiles={"fast": FAST, "slow": SLOW},
        nodes=(
            Nodes(name="fast", region="eu", profiles=("fast",), count=2, usd_per_hour=3.0),
            Nodes(name="fast", region="us", profiles=("fast",), count=2, usd_per_hour=2.5),
            Nodes(name="slow", region="us", profiles=("slow",), count=4, usd_per_hour=0.4),
        ),
        gateways=("eu", "us"),
        serving=Serving(noise=0.1),
        control=Control(heartbeat_s=0.25),
        demand=Demand(
            classes=(
                Class(name="tight", share=1, first_token_s=0.06),
                Class(name="loose", share=2, first_token_s=0.5, total_s=4.0),
                Class(name="any", share=1),
            ),
            sizes=Ranges(prompt_tokens=(100, 400), output_tokens=(10, 60)),
        ),
        load=1.0,
        full_rate=rate,
        seconds=seconds,
        warm_up=0.0,
    )


class Recording(Shipped):
    """The product's router, and all it was told of each request."""

    def __init__(self, name: str, setting: Setting) -> None:
        super().__init__(Fleet(setting.rng), {POLICY: PolicyConfig().build()}, setting.rng)
        self.region = setting.gateway
        self.reported: dict[str, list[tuple[Dispatch, Outcome, float]]] = defaultdict(list)
        self.ended: dict[str, float] = {}
        self.name = name

    def report(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        super().report(dispatch, outcome, now)
        cost = bill(dispatch.node, dispatch.request, outcome)
        self.reported[dispatch.request.id].append((dispatch, outcome, cost))
        self.ended[dispatch.request.id] = now


def groups(world: World, charge: float = 1.0) -> tuple[Group, ...]:
    """The fleet as a survey has it."""
    made = []
    for nodes in world.nodes:
        profile = world.profiles[nodes.profiles[0]]
        made.append(
            Group(
                region=nodes.region,
                count=nodes.count,
                accelerator=profile.accelerator,
                price=MarginalPrice(nodes.usd_per_hour),
                serves=(served(profile, charge),),
            )
        )
    return tuple(made)


def served(profile: Profile, charge: float = 1.0) -> Served:
    from loadtests.simulator.serving import Service

    endpoint = Service(profile).endpoint()
    return Served(endpoint.model, endpoint.variant, endpoint.curve, endpoint.max_batch, charge=charge)


def write(directory: Path, world: World, sample: float = 1.0, seed: int = 1) -> tuple[list[Path], Simulation]:
    """Simulate the world under the shipped policy, and write what its gateways would have logged."""
    made: list[Recording] = []

    def make(setting: Setting) -> Recording:
        made.append(Recording(f"gw{len(made)}", setting))
        return made[-1]

    plan = world.demand.plan(world.full_rate or 1.0, world.seconds, world.origins(), seed)
    simulation = Simulation(world, make, seed, plan)
    simulation.run()
    rng = random.Random(seed)
    paths = []
    for gateway in made:
        path = directory / f"{gateway.name}.jsonl"
        lines = [encode(Opened(at=EPOCH, gateway=gateway.name, region=gateway.region, sample=sample))]
        lines.append(encode(survey(gateway, world)))
        for attempts in gateway.reported.values():
            request = attempts[0][0].request
            ended = gateway.ended[request.id]
            if rng.random() < sample:
                record = decided(
                    request, attempts, at=EPOCH + request.arrived, finished=ended, tenant="", shed=None, status=200
                )
                lines.append(encode(record))
        path.write_bytes(b"".join(lines))
        paths.append(path)
    return paths, simulation


def survey(gateway: Recording, world: World) -> Surveyed:
    trips = gateway.fleet.regions()
    found = []
    for group, nodes in zip(groups(world), world.nodes, strict=True):
        own = [n for n in gateway.fleet.nodes() if n.worker.id.startswith(f"{nodes.region}-{nodes.name}-")]
        speed = sum(n.speed.factor for n in own) / len(own)
        charge = sum(n.charge.factor for n in own) / len(own)
        (only,) = group.serves
        pace = sum(n.pace.factor for n in own) / len(own)
        learned = Served(
            model=only.model, variant=only.variant, curve=only.curve, slots=only.slots, quality=only.quality,
            speed=speed, pace=pace, charge=charge,
        )  # fmt: skip
        found.append(
            Group(
                mark=mark(own[0].worker), region=group.region, count=group.count, accelerator=group.accelerator,
                price=group.price, serves=(learned,),
            )
        )  # fmt: skip
    return Surveyed(
        at=EPOCH + 1.0,
        groups=tuple(found),
        round_trips={name: (trip.mean, trip.jitter) for name, trip in trips.items()},
    )
