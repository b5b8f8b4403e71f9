"""Disturbances of a world, arranged on the timeline before it begins: each has a beginning, an end, and targets.

Targets are shell-style patterns of worker ids or region names. What happens to a worker is serving.py's to say, to
heartbeats registry.py's; here is who is hit, and when. Faults of one kind may overlap on a worker: the last to end
sets it free.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from loadtests.simulator.serving import Worker
from loadtests.simulator.wan import Way
from loadtests.simulator.world import Fault, FaultKind, WorldError

if TYPE_CHECKING:
    from loadtests.simulator.runs import Simulation

DRAIN_S = 30.0
"""Notice that reclaimed capacity gets (world.FaultKind.RECLAIM): what Google and Azure grant."""
ON_WORKERS = frozenset(FaultKind) - {FaultKind.PARTITION, FaultKind.REGISTRY, FaultKind.RESTART}


def arrange(simulation: Simulation) -> None:
    """Set the beginning and the end of every fault of the world."""
    disturbances = Disturbances(simulation)
    for number, fault in enumerate(simulation.world.faults):
        disturbances.check(number, fault)
        timeline = simulation.timeline
        timeline.at(fault.at, disturbances.begin, fault)
        if fault.at + fault.lasts < float("inf"):
            timeline.at(fault.at + fault.lasts, disturbances.end, fault)


class Disturbances:
    """What is wrong at the moment."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._on: Counter[tuple[FaultKind, str]] = Counter()
        """How many faults of a kind are on a target."""

    def check(self, number: int, fault: Fault) -> None:
        """Raises WorldError when a fault hits nothing."""
        where = f"faults[{number}] ({fault.kind.value})"
        if fault.kind in ON_WORKERS:
            found: Iterable[object] = self._workers(fault)
        elif fault.kind is FaultKind.RESTART:
            found = [edge for edge in self._simulation.edges if matches(fault.target, edge.region)]
        else:
            found = self._regions(fault.target)
        if not list(found):
            raise WorldError(f"{where}: target: {', '.join(fault.target)} matches nothing that can be hit")
        if fault.away_from and not self._regions(fault.away_from):
            raise WorldError(f"{where}: away_from: {', '.join(fault.away_from)} matches no region")

    # Whom it hits.

    def _workers(self, fault: Fault) -> list[Worker]:
        workers = self._simulation.workers.values()
        return [worker for worker in workers if matches(fault.target, worker.id, worker.region)]

    def _regions(self, patterns: tuple[str, ...]) -> list[str]:
        return [region for region in self._simulation.world.regions if matches(patterns, region)]

    # When.

    def begin(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.PARTITION:
                for way in self._cut(fault):
                    way.cut += 1
            case FaultKind.REGISTRY:
                self._mute(fault, 1)
            case FaultKind.RESTART:
                self._restart(fault)
            case kind:
                for worker in self._workers(fault):
                    self._on[kind, worker.id] += 1
                    self._hit(worker, fault)

    def end(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.PARTITION:
                for way in self._cut(fault):
                    way.cut -= 1
            case FaultKind.REGISTRY:
                self._mute(fault, -1)
            case FaultKind.RESTART:
                pass  # it takes no time
            case kind:
                for worker in self._workers(fault):
                    self._on[kind, worker.id] -= 1
                    self._heal(worker, fault, last=not self._on[kind, worker.id])

    def _hit(self, worker: Worker, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.OUTAGE:
                worker.barred = True
                if worker.up:
                    worker.crash()
            case FaultKind.RECLAIM:
                if worker.up:
                    worker.draining = True
                    self._simulation.registry.report(worker)
                self._simulation.timeline.at(self._simulation.now + DRAIN_S, self._reclaimed, worker)
            case FaultKind.SLOW:
                worker.slowed *= fault.factor
            case FaultKind.BLACK_HOLE:
                worker.black_hole = True
            case FaultKind.SILENT:
                worker.silent = True
                worker.freeze()
            case FaultKind.LYING:
                worker.lying = True
            case FaultKind.PRICE:
                self._price(worker, fault.factor)
        worker.judge()

    def _heal(self, worker: Worker, fault: Fault, *, last: bool) -> None:
        match fault.kind:
            case FaultKind.SLOW:
                worker.slowed /= fault.factor
            case FaultKind.PRICE:
                self._price(worker, 1.0 / fault.factor)
            case FaultKind.OUTAGE | FaultKind.RECLAIM:
                if last:
                    self._back(worker)
            case FaultKind.BLACK_HOLE:
                worker.black_hole = not last
            case FaultKind.SILENT:
                worker.silent = not last
            case FaultKind.LYING:
                worker.lying = not last
        worker.judge()

    # What it takes.

    def _reclaimed(self, worker: Worker) -> None:
        """The notice has run out."""
        if not self._on[FaultKind.RECLAIM, worker.id]:
            return
        worker.barred = True
        if worker.up:
            worker.crash()
            self._simulation.registry.leave(worker)

    def _back(self, worker: Worker) -> None:
        """An outage or a reclaim is over, unless another one of either kind is on."""
        worker.draining = self._on[FaultKind.RECLAIM, worker.id] > 0
        if worker.draining or self._on[FaultKind.OUTAGE, worker.id]:
            return
        worker.barred = False
        if not worker.up and self._simulation.now >= worker.nodes.from_s:
            self._simulation.registry.appear(worker)

    def _price(self, worker: Worker, factor: float) -> None:
        worker.usd_per_hour *= factor
        if worker.up:
            self._simulation.registry.write(worker)

    def _cut(self, fault: Fault) -> list[Way]:
        these = set(self._regions(fault.target))
        those = set(self._regions(fault.away_from)) if fault.away_from else set(self._simulation.world.regions) - these
        return self._simulation.network.between(these, those)

    def _mute(self, fault: Fault, by: int) -> None:
        registry = self._simulation.registry
        for region in self._regions(fault.target):
            registry.mute(region, by)

    def _restart(self, fault: Fault) -> None:
        for membership in self._simulation.registry.memberships:
            edge = membership.edge
            if matches(fault.target, edge.region):
                edge.contender = self._simulation.contender(edge.number)
                membership.forget()


def matches(patterns: tuple[str, ...], *names: str) -> bool:
    """Whether one of the names matches one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
