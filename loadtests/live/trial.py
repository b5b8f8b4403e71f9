"""One plan of a world, run: in virtual time by the simulator, or in wall time by processes. `versus.py` compares.

Both give an `Observed`: what clients saw of each request, and where the time of each answer went as the gateways
report it (the simulator's by the very outcomes it hands to the router, the real ones' by their decision logs).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from loadtests.embedded import Embedded, Gateway
from loadtests.live.client import Client, Message
from loadtests.live.crowd import Member
from loadtests.live.emulated import NOISE_HEADER, OUTPUT_HEADER, PROMPT_HEADER
from loadtests.processes import free_ports
from loadtests.report import Sent
from loadtests.scenario import Drawn, Leg, Region, Scenario, WorkerPlan
from loadtests.simulator import replay, runs
from loadtests.simulator.contender import Contender, Setting
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import World
from loadtests.workload import Planned
from policies.decision import OK, Decided
from policies.request import Dispatch, Outcome

SETTLE_S = 5.0
"""Before the first request: the gateways' probes see each worker some twenty times."""
LOG_BYTES = 1 << 30
BYTES_PER_TOKEN = 4
"""As the gateway counts a prompt (gateway/openai/sizes.py)."""


class Seen(NamedTuple):
    """A request as its client saw it; seconds from the moment it was meant to be sent."""

    first: float | None
    total: float | None
    """None when it got no whole answer."""
    met: bool
    attempts: int
    cost: float
    group: str
    """Of nodes, that answered."""


class Parts(NamedTuple):
    """Where an answer's time went."""

    network: float
    queue: float
    prefill: float
    decode: float
    earlier: float
    """On attempts before the one that brought the answer."""
    gateway: float
    """All that is left between the request's first byte and the answer's last."""
    predicted_queue: float
    predicted_spread: float
    """Standard deviation of the prediction."""


class Observed(NamedTuple):
    seen: list[Seen]
    parts: list[Parts]


# In virtual time.


class Listening:
    """A contender, and all that is reported to it."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self.fleet = contender.fleet
        self.observe, self.route, self.tick = contender.observe, contender.route, contender.tick
        self.probes, self.waiting = contender.probes, contender.waiting
        self.when_infeasible = contender.when_infeasible
        self.reported: list[tuple[Dispatch, Outcome]] = []

    def report(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        self._contender.report(dispatch, outcome, now)
        self.reported.append((dispatch, outcome))


def simulate(world: World, policy: str, seed: int, weather: int) -> Observed:
    """Simulate the plan of `seed`; `weather` is what else chance decides."""
    listening: list[Listening] = []

    def make(setting: Setting) -> Contender:
        listening.append(Listening(CONTENDERS[policy](setting)))
        return listening[-1]

    simulation = Simulation(world, make, weather, runs.planned(world, seed))
    simulation.run()
    seen = []
    for call in simulation.ledger.counted():
        arrived, worker = call.request.arrived, call.worker
        answered = worker is not None and call.first is not None and call.ended is not None
        seen.append(
            Seen(
                first=call.first - arrived if answered and call.first is not None else None,
                total=call.ended - arrived if answered and call.ended is not None else None,
                met=call.met, attempts=call.attempts, cost=call.usd,
                group=_group(worker.id) if worker is not None else "",
            )
        )  # fmt: skip
    parts = [
        _simulated(dispatch, outcome)
        for one in listening
        for dispatch, outcome in one.reported
        if outcome.reason is None and dispatch.request.arrived >= world.warm_up
    ]
    return Observed(seen, parts)


def _simulated(dispatch: Dispatch, outcome: Outcome) -> Parts:
    assert outcome.total is not None
    queue, prefill, decode = outcome.queue or 0.0, outcome.prefill or 0.0, outcome.decode or 0.0
    return Parts(
        network=outcome.total - queue - prefill - decode, queue=queue, prefill=prefill, decode=decode,
        earlier=dispatch.at - dispatch.request.arrived, gateway=0.0,
        predicted_queue=dispatch.eta.wait, predicted_spread=dispatch.eta.spread,
    )  # fmt: skip


def _group(worker_id: str) -> str:
    return worker_id.rpartition("-")[0]


# In processes.


class Trial(Embedded):
    """A world's fleet on this machine: gateways and WAN as they are, all its workers in one process."""

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        super().__init__(scenario(world), say=say)
        self.world = world

    def start_crowd(self, members: Sequence[Member]) -> None:
        """`members` listen where the WAN forwards to, and register where it listens."""
        assert self.redis is not None
        listens = self.start_wan({member.worker.id: member.port for member in members})
        placed = [
            msgspec.structs.replace(
                member, worker=msgspec.structs.replace(member.worker, address=listens[member.worker.id])
            )
            for member in members
        ]
        path = self.directory / "crowd.json"
        path.write_bytes(msgspec.json.encode(placed))
        crowd = self.spawn("crowd", [sys.executable, "-m", "loadtests.live.crowd", str(path), "--redis", self.redis])
        crowd.wait_ready(30.0)

    def start_logging(self, region: str, policy: str, output_tokens: float) -> tuple[Gateway, Path]:
        """A gateway that logs every decision, and its log."""
        log = self.directory / f"{region}.jsonl"
        gateway = self.start_gateway(
            region,
            routes=[{"match": {"model": "*"}, "policy": policy, "output_tokens": output_tokens}],
            probes={"interval_s": self.world.control.probe_s},
            decision_log={"path": str(log), "sample": 1.0, "max_bytes": LOG_BYTES, "keep": 0},
        )
        return gateway, log


def scenario(world: World) -> Scenario:
    """A world as the WAN proxy and the embedded fleet know it."""
    regions = {}
    for number, (name, place) in enumerate(world.regions.items()):
        local = world.round_trip(name, name)
        regions[name] = Region(
            source_address=f"127.0.{20 + number}.1", latitude=place.latitude, longitude=place.longitude,
            local_rtt_ms=local.avg_ms, local_drawn=Drawn(local.min_ms, local.mdev_ms),
        )  # fmt: skip
    legs = tuple(
        Leg(between=trip.between, rtt_ms=trip.avg_ms, drawn=Drawn(trip.min_ms, trip.mdev_ms))
        for trip in world.round_trips
        if trip.between[0] != trip.between[1]
    )
    workers = [
        WorkerPlan(
            id=f"{nodes.region}-{nodes.name}-{index}", region=nodes.region, models=("llm",), variants=("v",),
            usd_per_hour=nodes.usd_per_hour,
        )
        for nodes in world.nodes
        for index in range(nodes.count)
    ]  # fmt: skip
    return Scenario(
        name=world.name, regions=regions, legs=legs, gateways=tuple(dict.fromkeys(world.gateways)),
        workers=tuple(workers),
    )  # fmt: skip


def members(simulation: Simulation, mean_output: float) -> list[Member]:
    """The simulated workers, to be emulated."""
    ports = free_ports(len(simulation.workers))
    boot = f"{os.getpid()}-{time.time_ns()}"
    made = []
    for port, worker in zip(ports, simulation.workers.values(), strict=True):
        (profile,) = (simulation.world.profiles[name] for name in worker.nodes.profiles)
        record = msgspec.structs.replace(worker.record(), boot=boot, engine="isochrone")  # speaks as ours do
        made.append(Member(record, profile, port, mean_output, simulation.world.control.heartbeat_s))
    return made


def run(world: World, policy: str, seed: int, say: Callable[[str], None]) -> Observed:
    """The plan of `seed`, sent to real gateways. Raises ChildError."""
    plan = runs.planned(world, seed)
    simulation = Simulation(world, CONTENDERS[policy], seed, plan)
    simulation.run()  # for its weather
    noise = [call.noise for call in sorted(simulation.ledger.calls, key=lambda call: call.number)]
    mean_output = sum(planned.output_tokens for planned in plan) / len(plan)
    with Trial(world, say) as trial:
        trial.start_redis()
        trial.start_crowd(members(simulation, mean_output))
        started = [trial.start_logging(region, policy, mean_output) for region in trial.scenario.gateways]
        for gateway, _ in started:
            trial.await_workers(gateway)
        time.sleep(SETTLE_S)
        sent = asyncio.run(send([gateway for gateway, _ in started], plan, noise))
        for gateway, _ in started:
            trial.stop_gateway(gateway)
        decided = [entry.decided for entry in replay.read([log for _, log in started]).entries]
    return observe(world, plan, sent, decided)


async def send(gateways: Sequence[Gateway], plan: Sequence[Planned], noise: Sequence[float]) -> list[Sent]:
    """Send every request of a plan at its time to the gateway of its origin."""
    by_origin: dict[str, list[Planned]] = defaultdict(list)
    for planned in plan:
        by_origin[planned.origin].append(planned)
    clients = []
    for gateway in gateways:
        parts = urlsplit(gateway.url)
        clients.append(
            Client(
                parts.hostname or "", parts.port or 80, write=lambda planned: message(planned, noise[planned.number])
            )
        )
    try:
        batches = await asyncio.gather(
            *(client.run(by_origin[gateway.region]) for client, gateway in zip(clients, gateways, strict=True))
        )
    finally:
        for client in clients:
            client.close()
    return [sent for batch in batches for sent in batch]


def message(planned: Planned, noise: float) -> Message:
    """A planned request as bytes: a prompt of exactly its size, its deadlines, and what it costs an emulated worker.

    The true length of the answer stands where only the worker reads it: the gateway is to expect the mean.
    """
    kind = planned.kind
    headers = [
        ("x-route-explain", "1"), ("x-request-id", f"r{planned.number}"),
        (PROMPT_HEADER, str(planned.prompt_tokens)), (OUTPUT_HEADER, str(planned.output_tokens)),
        (NOISE_HEADER, f"{noise:.6f}"), ("x-deadline-probability", f"{kind.probability:g}"),
    ]  # fmt: skip
    if kind.total_s is not None:
        headers.append(("x-deadline-ms", f"{kind.total_s * 1e3:.0f}"))
    if kind.first_token_s is not None:
        headers.append(("x-slo-ttft-ms", f"{kind.first_token_s * 1e3:.0f}"))
    body = {"model": kind.model, "prompt": "word" * planned.prompt_tokens, "stream": planned.stream}
    return Message("/v1/completions", msgspec.json.encode(body), tuple(headers))


def observe(world: World, plan: Sequence[Planned], sent: Sequence[Sent], decided: Sequence[Decided]) -> Observed:
    """What clients and gateways say of a real run, without its warm-up."""
    at = {planned.number: planned.at for planned in plan}
    seen = [
        Seen(
            first=one.first_byte if one.ok else None, total=one.took if one.ok else None, met=one.in_deadline,
            attempts=one.attempts, cost=0.0, group=_group(one.worker),
        )
        for one in sent
        if at[one.number] >= world.warm_up
    ]  # fmt: skip
    began = min(record.at for record in decided)
    counted = [record for record in decided if record.at - began >= world.warm_up - plan[0].at]
    # The bill is the gateways': a stream's client is told what was expected.
    each = sum(record.cost for record in counted) / max(1, len(seen))
    return Observed([one._replace(cost=each) for one in seen], [part for record in counted for part in _parts(record)])


def _parts(record: Decided) -> list[Parts]:
    if not record.attempts or record.took is None:
        return []
    last = record.attempts[-1]
    actual = last.actual
    if last.outcome != OK or actual.prefill is None or actual.total is None:
        return []
    queue, decode = actual.queue or 0.0, actual.decode or 0.0
    earlier = last.started if len(record.attempts) > 1 else 0.0
    return [
        Parts(
            network=actual.total - queue - actual.prefill - decode, queue=queue, prefill=actual.prefill, decode=decode,
            earlier=earlier, gateway=record.took - actual.total - earlier,
            predicted_queue=last.predicted.wait, predicted_spread=last.predicted.spread,
        )
    ]  # fmt: skip
