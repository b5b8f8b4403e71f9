"""The requests this gateway holds: nobody can take them in time now, and somebody might before it is too late.

One line per policy and model, bounded. Who is next: between tenants by what they were served (start-time fair queueing:
Goyal, Vin and Cheng, SIGCOMM 1996; in cost over weight, as Sheng et al., OSDI 2024, count tokens), inside a tenant the
earliest deadline. The router joins and leaves in the same step as it decides; requests are known by identity.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np

from policies.candidates import Candidates
from policies.request import INFINITE, Request
from policies.worker import WAIT_ERROR

LOOKS = 2
"""Requests of one line that are tried per change without success: the next one may fit where the first does not."""
MOST = 16
"""Requests tried per change in all: a third of a millisecond at most; the next change, or the next tick, goes on."""
FREE = 0.01
"""Seconds of wait up to which a node counts as free for those that yield: every gateway that holds some sees the same
node fall free, so each may add little."""
TO_SPARE = 0.6
"""Seconds before the last instant at which a request that yields is sent after all: a queue will be in its way then."""

_Key = tuple[float, int]
"""Its deadline, and when it came among all."""


def due(request: Request) -> float:
    """What a line is ordered by: the nearest deadline, or the end of a patient request's patience."""
    nearest = min(request.deadline, request.first_token_deadline)
    return nearest if nearest < INFINITE else request.arrived + request.patience


def latest_start(candidates: Candidates, now: float) -> float:
    """The last instant at which some node could start on a request with its deadlines met as surely as it wants, its
    own queue gone, and the request's patience with ours not over. -inf if no node can."""
    request, wait = candidates.request, candidates.columns.wait
    able = candidates.eligible
    end = request.arrived + request.max_wait
    if due(request) == request.arrived + request.patience:
        end = min(end, request.arrived + request.patience)
    if not request.patient:
        whole, first, pace = candidates.lateness(now)
        late = np.maximum(
            whole - wait * (1.0 + candidates.z * WAIT_ERROR), first - wait * (1.0 + candidates.z_first * WAIT_ERROR)
        )
        able = able & (pace <= 0.0)
        end = min(end, now - float(late[able].min())) if able.any() else end
    return end if able.any() else -INFINITE


class Place:
    """One held request."""

    __slots__ = ("key", "line", "request", "since", "until", "yields")

    def __init__(self, request: Request, line: Line, key: _Key, until: float, since: float, yields: bool) -> None:
        self.request = request
        self.line = line
        self.key = key
        self.until = until
        """When it has to be routed again at the latest."""
        self.since = since
        self.yields = yields
        """Whether it could be sent now, and has time to wait for a node that is free."""

    def __repr__(self) -> str:
        return f"<Place of {self.request.id} until {self.until:.3f}>"


class _Flow:
    """One tenant's part of a line. `start` is the virtual time at which its next request begins."""

    __slots__ = ("keys", "places", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.keys: list[_Key] = []
        """Sorted."""
        self.places: dict[_Key, Place] = {}


class Line:
    """Those of one policy and model. It ends, virtual time included, when nobody waits."""

    __slots__ = ("_flows", "_virtual", "count", "name")

    def __init__(self, name: tuple[str, str]) -> None:
        self.name = name
        self.count = 0
        self._flows: dict[str, _Flow] = {}
        """By tenant; of those served in this line's time, also the ones that do not wait now."""
        self._virtual = 0.0
        """The start of what was served last."""

    def add(self, place: Place) -> None:
        flow = self._flow(place.request.tenant)
        if not flow.keys:
            flow.start = max(flow.start, self._virtual)  # idle time is no credit
        insort(flow.keys, place.key)
        flow.places[place.key] = place
        self.count += 1

    def remove(self, place: Place) -> None:
        flow = self._flows[place.request.tenant]
        del flow.places[place.key]
        del flow.keys[bisect_left(flow.keys, place.key)]
        self.count -= 1

    def serve(self, tenant: str, cost: float) -> None:
        """One of a tenant's requests went; `cost` is over the tenant's weight."""
        flow = self._flow(tenant)
        self._virtual = max(self._virtual, flow.start)
        flow.start = max(flow.start, self._virtual) + cost

    def waiting(self, tenant: str) -> int:
        flow = self._flows.get(tenant)
        return len(flow.keys) if flow is not None else 0

    def front(self, number: int) -> Place | None:
        """The one that is `number`-th in turn: of each tenant in turn its first, then of each its second, ..."""
        active = [flow for flow in self._flows.values() if flow.keys]
        if number >= self.count:
            return None
        rank = 0
        while number >= (round_ := sum(len(flow.keys) > rank for flow in active)):
            number -= round_
            rank += 1
        turns = heapq.nsmallest(
            number + 1, ((flow.start, flow.keys[rank], flow) for flow in active if len(flow.keys) > rank)
        )
        _, key, flow = turns[number]
        return flow.places[key]

    def _flow(self, tenant: str) -> _Flow:
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = _Flow(self._virtual)
        return flow

    def __repr__(self) -> str:
        return f"<Line of {'/'.join(self.name)}, {self.count} wait>"


class Waiting:
    """All lines of a gateway. Invariants: a request has at most one place, no line is empty, and no tenant has more
    places in a line than it may."""

    __slots__ = ("_places", "_tickets", "lines")

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], Line] = {}
        """By policy and model; empty, which is one truth test, while nobody waits."""
        self._places: dict[int, Place] = {}
        """By the request's identity: ids are the clients', and may repeat."""
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return len(self._places)

    def count(self, request: Request) -> int:
        """How many wait in a request's line."""
        line = self.lines.get((request.policy, request.model))
        return 0 if line is None else line.count

    def holds(self, request: Request) -> bool:
        return id(request) in self._places

    def admits(self, request: Request, most: int) -> bool:
        """Whether there is a place for one more of this tenant, `most` being what a tenant may have in a line alone.

        A place is given while the tenant has fewer than are free of twice as many (dynamic thresholds: Choudhury and
        Hahne, 1998), so that whoever has none yet finds one, however much another sends.
        """
        line = self.lines.get((request.policy, request.model))
        return most > 0 and (line is None or line.waiting(request.tenant) < 2 * most - line.count)

    def yields(self, request: Request, now: float) -> float:
        """Until when a request yields; -inf where it does not, or no longer."""
        place = self._places.get(id(request))
        return place.until if place is not None and place.yields and now < place.until else -INFINITE

    def join(self, request: Request, until: float, now: float, yields: bool = False) -> None:
        """Take a place, or keep the one it has until another instant."""
        place = self._places.get(id(request))
        if place is not None:
            place.until, place.yields = until, yields
            return
        name = request.policy, request.model
        line = self.lines.get(name)
        if line is None:
            line = self.lines[name] = Line(name)
        place = Place(request, line, (due(request), next(self._tickets)), until, now, yields)
        self._places[id(request)] = place
        line.add(place)

    def leave(self, request: Request) -> Place | None:
        """Give up the place it has, if any. Its line may end with it."""
        place = self._places.pop(id(request), None)
        if place is not None:
            line = place.line
            line.remove(place)
            if not line.count:
                del self.lines[line.name]
        return place

    def serve(self, request: Request, cost: float) -> None:
        """A request of somebody's line was sent: count it for its tenant, `cost` being over the tenant's weight."""
        line = self.lines.get((request.policy, request.model))
        if line is not None:
            line.serve(request.tenant, cost)

    def front(self) -> Iterator[Request]:
        """Those to be routed again after a change, the first in turn first. Each is routed before the next is asked
        for; a line is passed over once it has been tried in vain, and all are tried in turn."""
        left = MOST
        for line in list(self.lines.values()):
            held_on = 0
            while left and held_on < LOOKS and line.count:
                place = line.front(held_on)
                if place is None:
                    break
                left -= 1
                yield place.request
                held_on += id(place.request) in self._places
            if self.lines.get(line.name) is line:
                self.lines[line.name] = self.lines.pop(line.name)
            if not left:
                return

    def __repr__(self) -> str:
        return f"<Waiting {len(self._places)} in {len(self.lines)} lines>"
