"""What came of every request: one row each, closed exactly once, and the figures made of them.

Requests that arrived during the warm-up are simulated, billed and not counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from loadtests.simulator.call import Call
from loadtests.simulator.result import Bin, Detail, Figures
from loadtests.simulator.serving import Worker
from loadtests.simulator.world import World
from loadtests.workload import Planned
from policies.cost import JOULES_PER_KWH, SECONDS_PER_HOUR
from policies.fairness import level
from policies.request import Status

PROMISED = (Status.FEASIBLE, Status.DEGRADED)
BINS = 10
RECOVERED = 0.95
"""Share of the attainment before a fault at which the fault counts as overcome."""
RECOVERY_WINDOW_S = 1.0


class Ledger:
    def __init__(self, world: World, noise: Sequence[float], emptied: Callable[[], None]) -> None:
        """`noise`: what each request's service times are multiplied with. `emptied` is called when none is open."""
        self.calls: list[Call] = []
        self._world = world
        self._noise = noise
        self._emptied = emptied
        self._open = 0
        self.unbegun = 0
        """Open ones whose client has had nothing yet: only these may still be sent anywhere."""
        self._decisions = 0
        self._deciding_s = 0.0
        self._samples: list[tuple[float, dict[str, int]]] = []

    @property
    def open_calls(self) -> int:
        return self._open

    def open(self, planned: Planned, now: float) -> Call:
        """A request came."""
        call = Call(planned, self._noise[planned.number], now)
        self.calls.append(call)
        self._open += 1
        self.unbegun += 1
        return call

    def begin(self, call: Call, now: float) -> None:
        """Its client has had a first token."""
        call.first = now
        self.unbegun -= 1

    def close(self, call: Call) -> None:
        """Its client has its ending."""
        assert not call.closed, call
        if call.first is None:
            self.unbegun -= 1
        call.closed = True
        self._open -= 1
        if not self._open:
            self._emptied()

    def decided(self, seconds: float) -> None:
        """A `route` took so long, of this thread's own time."""
        self._decisions += 1
        self._deciding_s += seconds

    def sample(self, now: float, workers: Iterable[Worker]) -> None:
        """Note how many wait, by region."""
        waiting: dict[str, int] = defaultdict(int)
        for worker in workers:
            waiting[worker.region] += worker.waiting
        self._samples.append((now, dict(waiting)))

    # The figures.

    def counted(self) -> list[Call]:
        """Those offered after the warm-up."""
        return [call for call in self.calls if call.request.arrived >= self._world.warm_up]

    def figures(self, workers: Sequence[Worker]) -> Figures:
        world, calls = self._world, self.counted()
        offered = max(1, len(calls))
        met = sum(call.met for call in calls)
        accepted = [call for call in calls if call.status in PROMISED]
        firsts = [
            call.first - call.request.arrived for call in calls if call.worker is not None and call.first is not None
        ]
        fleet = sum(_rent(worker, world) for worker in workers)
        groups = fair_shares(calls)
        if len(groups) < 2:
            groups = _shares(calls, lambda call: call.origin)
        return Figures(
            attainment=met / offered,
            cost_per_1k=_per_1k(sum(call.usd for call in calls), met),
            fleet_cost_per_1k=_per_1k(fleet, met),
            miss_rate_accepted=sum(not call.met for call in accepted) / max(1, len(accepted)),
            accepted_share=len(accepted) / offered,
            p50_s=_quantile(firsts, 0.50),
            p99_s=_quantile(firsts, 0.99),
            herd_index=max(worker.herd.worst for worker in workers),
            jain=jain(list(groups.values())),
            rejected=sum(not call.tried for call in calls) / offered,
            decision_us=self._deciding_s / max(1, self._decisions) * 1e6,
        )

    def detail(self, workers: Sequence[Worker], messages: int) -> Detail:
        world, calls = self._world, self.counted()
        answered = [call for call in calls if call.worker is not None]
        flows: dict[str, dict[str, int]] = {}
        for call in answered:
            assert call.worker is not None
            row = flows.setdefault(call.origin, {})
            row[call.worker.region] = row.get(call.worker.region, 0) + 1
        totals = [call.ended - call.request.arrived for call in answered if call.ended is not None]
        joules, grams = self._energy(calls, workers)
        bins, brier, ece = reliability(calls)
        regions = sorted({worker.region for worker in workers})
        return Detail(
            offered=len(calls),
            answered=len(answered),
            by_class=_shares(calls, lambda call: call.kind.name),
            by_region=_shares(calls, lambda call: call.origin),
            by_tenant=_shares(calls, lambda call: call.tenant),
            flows=flows,
            reliability=bins,
            brier=brier,
            ece=ece,
            queue_times=tuple(at for at, _ in self._samples),
            queues={region: tuple(float(row[region]) for _, row in self._samples) for region in regions},
            utilisation=_utilisation(workers, world.seconds),
            energy_j_per_request=joules / max(1, len(answered)),
            co2_g_per_request=grams / max(1, len(answered)),
            mean_quality=float(np.mean([call.variant_quality for call in answered])) if answered else 0.0,
            degraded=sum(call.status is Status.DEGRADED for call in calls) / max(1, len(calls)),
            retries=sum(max(0, call.attempts - call.hedges - 1) for call in calls),
            hedges=sum(call.hedges for call in calls),
            messages_per_request=messages / max(1, len(self.calls)),
            total_p50_s=_quantile(totals, 0.50),
            total_p99_s=_quantile(totals, 0.99),
            recovery_s=self._recovery(),
        )

    def _energy(self, calls: list[Call], workers: Sequence[Worker]) -> tuple[float, float]:
        """Joules and grams of CO2: what the requests added, and the idle draw of all nodes for the counted time."""
        joules, grams = sum(call.joules for call in calls), sum(call.grams for call in calls)
        seconds = self._world.seconds - self._world.warm_up
        for worker in workers:
            idle = worker.main.profile.idle_watts * seconds
            joules += idle
            grams += idle / JOULES_PER_KWH * worker.place.carbon_g_per_kwh
        return joules, grams

    def _recovery(self) -> float | None:
        world = self._world
        began = max((fault.at for fault in world.faults if fault.at < world.seconds), default=None)
        if began is None:
            return None
        before = [c.met for c in self.calls if world.warm_up <= c.request.arrived < min(f.at for f in world.faults)]
        if not before:
            return None
        wanted = RECOVERED * sum(before) / len(before)
        after: dict[int, list[bool]] = defaultdict(list)
        for call in self.calls:
            if call.request.arrived >= began:
                after[int((call.request.arrived - began) / RECOVERY_WINDOW_S)].append(call.met)
        # Back for good: from the end of the last second below it.
        below = [second for second, met in after.items() if sum(met) < wanted * len(met)]
        if not below:
            return 0.0
        back = (max(below) + 1) * RECOVERY_WINDOW_S
        return back if back < world.seconds - began else None


def _rent(worker: Worker, world: World) -> float:
    """US dollars of a node for all of the counted time from its registration on, at the world's price."""
    seconds = world.seconds - max(world.warm_up, worker.nodes.from_s)
    return worker.nodes.usd_per_hour * max(0.0, seconds) / SECONDS_PER_HOUR


def _per_1k(usd: float, met: int) -> float:
    """Infinite cost is none that a table can show: with nobody in time, the whole bill stands there."""
    return usd / max(1, met) * 1000


def _quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else math.nan


def _shares(calls: Iterable[Call], key: Callable[[Call], str]) -> dict[str, float]:
    """Attainment by group."""
    offered: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for call in calls:
        offered[key(call)] += 1
        met[key(call)] += call.met
    return {name: met[name] / offered[name] for name in sorted(offered)}


def fair_shares(calls: Iterable[Call]) -> dict[str, float]:
    """What each tenant got in deadline, as a share of what it would get if all that was in deadline were dealt out
    evenly (max-min, what a tenant does not ask for going to the others). 1 is even; a hog has more."""
    offered: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for call in calls:
        offered[call.tenant] += 1
        met[call.tenant] += call.met
    each = level([(float(count), 1.0) for count in offered.values()], float(met.total()))
    return {name: met[name] / min(float(offered[name]), each) if each else 0.0 for name in sorted(offered)}


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all get the same, 1/n when one gets everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def reliability(calls: Iterable[Call]) -> tuple[tuple[Bin, ...], float, float]:
    """Bins of the predicted probability, Brier score, expected calibration error."""
    pairs = [(call.predicted, call.predicted_met) for call in calls if call.predicted >= 0.0]
    if not pairs:
        return (), 0.0, 0.0
    predicted, seen = np.array([p for p, _ in pairs]), np.array([float(m) for _, m in pairs])
    index = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins = []
    ece = 0.0
    for number in range(BINS):
        mask = index == number
        count = int(mask.sum())
        if count:
            row = Bin(float(predicted[mask].mean()), float(seen[mask].mean()), count)
            ece += abs(row.predicted - row.observed) * count / len(pairs)
            bins.append(row)
    return tuple(bins), float(np.mean((predicted - seen) ** 2)), ece


def _utilisation(workers: Sequence[Worker], seconds: float) -> dict[str, float]:
    busy: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for worker in workers:
        busy[worker.accelerator] += worker.busy_s
        count[worker.accelerator] += 1
    return {kind: busy[kind] / (count[kind] * seconds) for kind in sorted(busy)}
