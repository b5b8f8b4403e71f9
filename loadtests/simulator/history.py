"""What was: requests that somebody really served, and the fleet that served them. A what-if starts from it.

`replay.py` reads one from our own decision logs, `foreign.py` from others' logs; here it becomes a world and a plan to
simulate, and the figures it had itself. A sampled log stands for more than it holds: a request that stands for n is
planned n times, at random moments between its neighbours in the log, so that the load is the real one on the real
fleet (a fleet thinned to the sample would have other queues). Sizes and deadlines are those of the log.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import msgspec
import numpy as np

from loadtests.simulator.world import (
    Control,
    CostMode,
    Nodes,
    Place,
    Profile,
    RoundTrip,
    Serving,
    World,
    WorldError,
)
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned
from policies.decision import Group, Served
from policies.records import ReservedPrice, TokenPrice

NO_WORK = 1e9
"""Prompt tokens per second of a model that takes no time for them."""
NARROW = 2.0
"""Deviations below the mean at which the shortest round trip is taken to be, where only those two are known."""
DEVIATION = 1.2533
"""Standard deviation over mean deviation, of a normal distribution: probes report the latter (RFC 6298)."""
WARM_UP_SHARE = 0.2
WARM_UP_S = 10.0
"""At the start of a log its gateways knew their fleet; a simulated one has to learn it: the first seconds do not
count, in the log's figures either."""


class Past(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One request as it was served. Seconds count from its arrival."""

    at: float
    """Unix time."""
    region: str
    """Of its gateway."""
    kind: Class
    prompt_tokens: float
    output_tokens: float | None
    """What came; None when nobody knows."""
    items: int = 1
    tenant: str = ""
    stands_for: float = 1.0
    policy: str = ""
    first: float | None = None
    total: float | None = None
    """None when it got no answer."""
    met: bool = False
    """Whether every deadline was."""
    refused: bool = False
    cost: float = 0.0
    attempts: int = 1
    served: str = ""
    """Region of the worker that answered."""
    worker: str = ""
    """Which worker it was sent to, as `worker_name` calls it; empty where that is not known."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    source: str
    past: tuple[Past, ...]
    """In the order of their times."""
    fleet: tuple[Group, ...]
    trips: Mapping[tuple[str, str], tuple[float, float]]
    """(gateway's region, worker's region) -> mean round trip and its mean deviation, in seconds."""
    gateways: tuple[str, ...]
    """Regions; one with two gateways stands there twice."""
    billed: Mapping[tuple[str, str, str], float] = {}
    """(group's mark, model, variant) -> accelerator seconds that were billed, over those the simulator would charge
    for the same work (there a busy accelerator is divisible). Prices are multiplied with it, so that work costs what it
    did."""
    heartbeat_s: float = 0.25
    noise: float = 0.1
    notes: tuple[str, ...] = ()
    """What was assumed or left out, a sentence each."""

    @property
    def start(self) -> float:
        return self.past[0].at

    @property
    def seconds(self) -> float:
        """From the first request to the last; never nothing."""
        return max(self.past[-1].at - self.start, 1e-3)

    @property
    def warm_up(self) -> float:
        return min(WARM_UP_S, WARM_UP_SHARE * self.seconds)

    def counted(self) -> list[Past]:
        """Those after the warm-up."""
        since = self.start + self.warm_up
        return [one for one in self.past if one.at >= since]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy came to over the counted requests; so many that a sample stands for."""

    requests: float
    attainment: float
    missed: float
    """Requests."""
    cost: float
    """US dollars."""
    cost_per_1k: float
    """Per 1,000 requests in deadline."""
    rejected: float
    """Share refused."""
    attempts: float
    """Mean per request."""
    first_p50_s: float
    first_p99_s: float
    total_p50_s: float
    total_p99_s: float
    regions: dict[str, float]
    """Share of the answers by the region they came from."""


def account(past: Sequence[Past]) -> Account:
    """The figures of what was."""
    weights = np.array([one.stands_for for one in past])
    requests = float(weights.sum())
    met = float(sum(one.stands_for for one in past if one.met))
    cost = float(sum(one.cost * one.stands_for for one in past))
    served: dict[str, float] = defaultdict(float)
    for one in past:
        if one.served and one.total is not None:
            served[one.served] += one.stands_for
    answered = sum(served.values())
    return Account(
        requests=requests,
        attainment=met / requests,
        missed=requests - met,
        cost=cost,
        cost_per_1k=cost / met * 1e3 if met else math.inf,
        rejected=sum(one.stands_for for one in past if one.refused) / requests,
        attempts=sum(one.attempts * one.stands_for for one in past) / requests,
        first_p50_s=quantile([(one.first, one.stands_for) for one in past], 0.5),
        first_p99_s=quantile([(one.first, one.stands_for) for one in past], 0.99),
        total_p50_s=quantile([(one.total, one.stands_for) for one in past], 0.5),
        total_p99_s=quantile([(one.total, one.stands_for) for one in past], 0.99),
        regions={region: share / answered for region, share in sorted(served.items())},
    )


def quantile(weighted: Sequence[tuple[float | None, float]], share: float) -> float:
    """The smallest value that at least `share` of the weight does not exceed; absent values are left out."""
    present = sorted((value, weight) for value, weight in weighted if value is not None)
    if not present:
        return math.nan
    above = share * sum(weight for _, weight in present)
    for value, weight in present:
        above -= weight
        if above <= 1e-9:
            return value
    return present[-1][0]


# What is to be simulated.


def cut(history: History, requests: int) -> History:
    """The beginning of it that comes to at most so many requests."""
    stand_for = itertools.accumulate(one.stands_for for one in history.past)
    kept = sum(1 for _ in itertools.takewhile(lambda total: total <= requests, stand_for))
    if kept == len(history.past):
        return history
    past = history.past[: max(kept, 1)]
    seconds = past[-1].at - past[0].at
    note = f"Only the first {seconds:.0f} s of the log are replayed, {requests:,} requests."
    return msgspec.structs.replace(history, past=past, notes=(*history.notes, note))


def plan(history: History, seed: int, *, pinned: bool = False) -> list[Planned]:
    """The requests to simulate, in the order of their times. Pinned ones name their worker as session (whatif.py)."""
    rng = random.Random(seed)
    weights = _weights(history.fleet)
    lengths = _lengths(history.past)
    moments: list[tuple[float, Past]] = []
    for region in dict.fromkeys(history.gateways):
        own = [one for one in history.past if one.region == region]
        for index, one in enumerate(own):
            before = own[index - 1].at if index else one.at
            after = own[index + 1].at if index + 1 < len(own) else one.at
            whole, rest = divmod(one.stands_for, 1.0)
            times = int(whole) + (rng.random() < rest)
            if times == 1 and one.stands_for == 1.0:
                moments.append((one.at, one))
                continue
            span = ((before + one.at) / 2, (one.at + after) / 2)
            moments.extend((rng.uniform(*span), one) for _ in range(times))
    moments.sort(key=lambda moment: moment[0])
    planned = []
    for number, (at, one) in enumerate(moments):
        output = one.output_tokens if one.output_tokens is not None else rng.choice(lengths[one.kind.model])
        token, item = weights.get(one.kind.model, (1.0, 0.0))
        prompt = token * one.prompt_tokens + item * (one.items - 1)
        planned.append(
            Planned(number, max(0.0, at - history.start), one.kind, round(prompt), max(1, round(output)), 1,
                    rng.getrandbits(31), one.region, one.tenant, one.worker if pinned else "")
        )  # fmt: skip
    return planned


def group_name(number: int) -> str:
    """What the workers of one of the fleet's groups are called in a world."""
    return f"g{number}"


def worker_name(group: int, index: int) -> str:
    """How the id of one worker of a group ends in a world; its region stands before."""
    return f"{group_name(group)}-{index}"


def world(history: History) -> World:
    """The fleet, its network and its gateways. Raises WorldError."""
    if not history.fleet:
        raise WorldError(f"{history.source}: it tells of no worker")
    regions = list(dict.fromkeys([*history.gateways, *(group.region for group in history.fleet)]))
    egress: dict[str, list[float]] = defaultdict(list)
    for group in history.fleet:
        egress[group.region] += [group.egress_usd_per_gb] * group.count
    shares = {region: sum(one.stands_for for one in history.past if one.region == region) for region in regions}
    profiles: dict[str, Profile] = {}
    nodes = []
    for number, group in enumerate(history.fleet):
        names = []
        for index, served in enumerate(group.serves):
            names.append(f"g{number}-{index}")
            profiles[names[-1]] = _profile(group, served)
        nodes.append(_nodes(group, group_name(number), tuple(names), history.billed))
    known = {served.model for group in history.fleet for served in group.serves}
    kinds = tuple(kind for kind in dict.fromkeys(one.kind for one in history.past) if kind.model in known)
    if not kinds:
        raise WorldError(f"{history.source}: no worker serves any of the models asked for")
    return World(
        name=history.source,
        about=f"What {history.source} tells of.",
        regions={
            name: Place(
                latitude=0.0, longitude=0.0, demand=shares[name],
                egress_usd_per_gb=fmean(egress[name]) if egress[name] else 0.0,
            )
            for name in regions
        },
        round_trips=_round_trips(history, regions),
        profiles=profiles,
        nodes=tuple(nodes),
        gateways=history.gateways,
        serving=Serving(noise=history.noise),
        control=Control(heartbeat_s=history.heartbeat_s, lease_s=3.0),
        demand=Demand(classes=kinds, sizes=_ranges(history.past)),
        load=1.0,
        full_rate=sum(shares.values()) / history.seconds,
        seconds=history.seconds + 1e-3,
        warm_up=history.warm_up,
    )  # fmt: skip


def _profile(group: Group, served: Served) -> Profile:
    """Prefill serial, decode in slots: the curve at the speed that was learned of it."""
    curve, speed, pace = served.curve, served.speed, served.pace
    unit = _unit(served)
    return Profile(
        accelerator=group.accelerator or "unknown",
        model=served.model,
        variant=served.variant,
        quality=served.quality,
        prefill_tokens_per_s=1.0 / (unit * speed) if unit else NO_WORK,
        overhead_s=curve.base * speed,
        decode_s=max(0.0, curve.decode - curve.decode_batch) * pace,
        decode_batch_s=curve.decode_batch * pace,
        slots=served.slots,
        power_watts=group.power_watts,
    )


def _unit(served: Served) -> float:
    """Seconds a further unit of input takes: a prompt token, or an item of a model without tokens."""
    return served.curve.prefill or served.curve.item


def _nodes(group: Group, name: str, profiles: tuple[str, ...], billed: Mapping[tuple[str, str, str], float]) -> Nodes:
    price = group.price
    if isinstance(price, TokenPrice):
        return Nodes(
            name=name, region=group.region, profiles=profiles, count=group.count, usd_per_hour=0.0, cloud=group.cloud,
            cost=CostMode.TOKEN, input_usd_per_mtok=price.input_usd_per_mtok,
            output_usd_per_mtok=price.output_usd_per_mtok,
        )  # fmt: skip
    if isinstance(price, ReservedPrice):
        return Nodes(
            name=name, region=group.region, profiles=profiles, count=group.count, cloud=group.cloud,
            usd_per_hour=price.usd_per_hour, cost=CostMode.RESERVED,
        )  # fmt: skip
    usual = fmean(billed.values()) if billed else 1.0
    share = fmean(billed.get((group.mark, served.model, served.variant), usual) for served in group.serves)
    return Nodes(
        name=name, region=group.region, profiles=profiles, count=group.count, cloud=group.cloud,
        usd_per_hour=price.usd_per_hour * share,
    )  # fmt: skip


def _ranges(past: Sequence[Past]) -> Ranges:
    """What sizes there were; the plan itself has each request's own."""
    prompts = [max(1, round(one.prompt_tokens)) for one in past]
    outputs = [max(1, round(one.output_tokens or 1.0)) for one in past]
    return Ranges(prompt_tokens=(min(prompts), max(prompts)), output_tokens=(min(outputs), max(outputs)))


def _lengths(past: Sequence[Past]) -> dict[str, list[float]]:
    """Answers seen, by model: what a request that got none may have wanted."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in past:
        if one.output_tokens is not None:
            found[one.kind.model].append(one.output_tokens)
    for one in past:
        if one.kind.model not in found:
            found[one.kind.model].append(1.0)
    return found


def _weights(fleet: Sequence[Group]) -> dict[str, tuple[float, float]]:
    """How many units of input a prompt token and a further item are, by model (`_unit`)."""
    return {
        served.model: (1.0, served.curve.item / served.curve.prefill) if served.curve.prefill else (0.0, 1.0)
        for group in fleet
        for served in group.serves
    }


def _round_trips(history: History, regions: Sequence[str]) -> tuple[RoundTrip, ...]:
    """One for every pair. What no gateway has measured goes by way of the gateway that makes it shortest."""
    trips = {}
    for (a, b), (mean, deviation) in history.trips.items():
        trips[tuple(sorted((a, b)))] = (mean, deviation)
    made = []
    for a, b in itertools.combinations_with_replacement(sorted(regions), 2):
        found = trips.get((a, b))
        if found is None:
            ways = [
                (x[0] + y[0], x[1] + y[1])
                for gateway in dict.fromkeys(history.gateways)
                if (x := trips.get(tuple(sorted((gateway, a))))) and (y := trips.get(tuple(sorted((gateway, b)))))
            ]
            if not ways and (a in history.gateways or b in history.gateways) and a != b:
                raise WorldError(f"{history.source}: the round trip between {a!r} and {b!r} is not known")
            found = min(ways, default=(0.001, 0.0002))
        mean, deviation = found
        sd = DEVIATION * deviation
        made.append(
            RoundTrip(
                between=(a, b), avg_ms=max(mean, 1e-6) * 1e3, min_ms=max(0.5 * mean, mean - NARROW * sd) * 1e3,
                mdev_ms=sd * 1e3,
            )
        )  # fmt: skip
    return tuple(made)
