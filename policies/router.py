"""The decision: three verbs and a tick, over a fleet, with no I/O, no clock and no chance of its own.

    observe  what the registry, the probes and the operators see
    route    decide and reserve, in one synchronous step
    report   settle a dispatch, exactly once
    tick     the only maintenance

The gateway drives it with sockets and a real clock, a simulator with a heap and a virtual one. State that must
survive a change of policies is the fleet's; a reload makes a new router over the same fleet.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from policies import admission, probing, refusal
from policies.admission import CROWDED_FROM
from policies.balancers import Balancer
from policies.balancers.cheapest_in_deadline import CheapestInDeadline, cheapest_with_room
from policies.balancers.soonest import FastestTokens, Soonest
from policies.calibrate import LEAST_SPREAD
from policies.candidates import Candidates
from policies.choice import Choice, crowded_out, hopeless, worth_trying
from policies.columns import Columns
from policies.fleet import Fleet
from policies.policy import Policy as Policy
from policies.reason import Reason
from policies.request import (
    INFINITE,
    Change,
    Dispatch,
    Hold,
    Infeasible,
    Outcome,
    Request,
    Shed,
    Sort,
    Status,
    kept,
)
from policies.waiting import FREE, TO_SPARE, Waiting, latest_start

if TYPE_CHECKING:
    from policies.shadow import Shadow

SHORTEST_HOLD = 0.01
"""Seconds. Less is no wait: a tick of the gateway's timers, and far above the rounding of the columns."""
NEARLY = 0.25
"""Spreads of slack within which two nodes are equally sure: a tenth of a probability at the median, less elsewhere."""
FEASIBLE = Status.FEASIBLE

_Open = tuple[Dispatch, Policy, float, bool]
"""A dispatch that has not been reported, whose it is, the work reserved (what `report` must undo), and whether it tests
a closed level. It keeps the dispatch, so its identity, alive."""


class Router:
    def __init__(self, fleet: Fleet, policies: Mapping[str, Policy], rng: random.Random) -> None:
        self.fleet = fleet
        self._policies = policies
        self._rng = rng
        self._open: dict[int, _Open] = {}
        """By identity."""
        self.waiting = Waiting()
        """The requests that `route` has answered with `Hold`. After a change whoever drives the router routes those in
        `waiting.front()` again, each by its `until` in any case; one whose client leaves gives up its place."""
        self._sorted: dict[Sort, Balancer] = {
            Sort.PRICE: CheapestInDeadline(),
            Sort.LATENCY: Soonest(),
            Sort.THROUGHPUT: FastestTokens(),
        }

    # The verbs.

    def observe(self, change: Change, now: float) -> None:
        """A node appeared, changed, reported load, was measured, or left."""
        self.fleet.apply(change, now)

    def route(
        self, request: Request, now: float, avoid: Collection[str] = (), beside: Dispatch | None = None
    ) -> Dispatch | Hold | Shed:
        """Decide where a request goes, and reserve it there.

        `avoid` holds the ids of workers already tried; with any, this is a repeat and needs the policy's budget. With
        `beside`, a dispatch of it that is silent yet, this asks for a hedge: `Hold` then says when to ask again.
        Any other `Hold` is a place in `waiting`, which it keeps until it is routed to something else.
        Raises KeyError when the request names a policy this router does not have.
        """
        policy = self._policies[request.policy]
        most = policy.admission.max_in_flight
        if avoid:
            refused = self._refuse_repeat(policy, request, now, avoid)
            if refused is not None:
                return refused
            if beside is not None:
                return self._hedge(policy, beside, now, avoid)
        elif most and policy.in_flight >= most:
            return self._at_limit(request, now)
        waits = self.waiting.lines and not avoid  # somebody does
        if waits and (until := self.waiting.yields(request, now)) > now and not self._free(request):
            return Hold(until)
        choice = self.consider(request, now, avoid)
        if not avoid and not request.patient and not (waits and self.waiting.holds(request)):
            promised = isinstance(choice, Choice) and choice.status is FEASIBLE
            crowded = not promised and crowded_out(choice, now)
            policy.overload.routed(crowded)
            if not promised and hopeless(choice):
                self.fleet.unmet(request, crowded)
        yields = False
        if policy.overload.share > CROWDED_FROM and not avoid and isinstance(choice, Choice):
            choice = self.yielded(policy, choice, now)
            yields = isinstance(choice, Hold)
        if waits or (policy.overload.share > CROWDED_FROM and not avoid):
            self._contend(policy, request, choice, now)
        if not isinstance(choice, Choice):
            if isinstance(choice, Hold):
                self.waiting.join(request, choice.until, now, yields)
            return choice
        candidates, slot = choice.candidates, choice.slot
        columns = candidates.columns
        if not columns.accepts[slot]:
            self.fleet.panics += 1
        if not avoid:
            columns.routed += 1
            policy.budget.requested()
        elif not policy.budget.take():
            return Shed(Reason.OVERLOADED, "The retry budget is spent.", retry_after=admission.MIN_RETRY_AFTER)
        node = columns.nodes[slot]
        eta = node.eta(request, now)
        probes = probing.worth_asking(candidates, self._rng, now)
        hedge_at = INFINITE
        if policy.hedging is not None and not avoid:
            hedge_at = policy.hedging.due(choice.candidates, choice.status, eta, policy.overload.floor > 0.0, now)
        dispatch = Dispatch(
            request, node, now, len(avoid) + 1, choice.status, eta, candidates.cost.item(slot), probes, hedge_at
        )
        return self._reserved(dispatch, policy, choice.test)

    def report(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        """Settle a dispatch. Raises KeyError when it was settled before: once per dispatch, never twice."""
        _, policy, work, test = self._open.pop(id(dispatch))
        policy.in_flight -= 1
        if dispatch.attempt > 1 and not dispatch.hedge:
            policy.budget.released()
        reason = outcome.reason
        if reason is not Reason.CLIENT_GONE and reason is not Reason.OUTRUN:  # which say nothing about the fleet
            if reason is not Reason.DEADLINE_EXCEEDED or outcome.executed:  # an early no is no sign of an outage
                policy.budget.settled(ok=reason is None)
            if not (dispatch.request.patient or outcome.client_error):
                self._calibrate(dispatch, outcome, test)
        self.fleet.settle(dispatch, work, outcome, now)

    def tick(self, now: float) -> None:
        """Maintenance; call it about every 50 ms."""
        self.fleet.tick(now)

    # The decision without the reservation: also what explanations are made of.

    def foresee(self, request: Request, now: float) -> Choice | Hold | Shed:
        """What `route` would decide now."""
        return self.yielded(self._policies[request.policy], self.consider(request, now), now)

    def consider(self, request: Request, now: float, avoid: Collection[str] = ()) -> Choice | Hold | Shed:
        """Pick a node for a request and reserve nothing. (Only the balancer's own turn and chance move on.)"""
        columns = self.fleet.columns(request.model)
        if columns is None:
            return Shed(Reason.MODEL_NOT_FOUND, param="model")
        policy = self._policies[request.policy]
        balancer = policy.balancer if request.sort is None else self._sorted[request.sort]
        candidates = self._candidates(columns, request, request.quality, now, avoid)
        if request.sort is None and not request.order:
            slot = balancer.pick(candidates, self._rng)
        else:
            slot = self._pick(balancer, candidates)
        if slot is not None and candidates.fit[slot]:
            if (
                policy.overload.share > CROWDED_FROM
                and not avoid
                and columns.wait[slot] > FREE  # what nobody else uses is nobody's share
                and policy.over_share(request, now)
            ):
                return self._not_its_turn(candidates, now)
            return self._promised(candidates, slot, FEASIBLE)
        if slot is not None and (candidates.fit.any() or request.tries):
            return Choice(candidates, slot, Status.BEST_EFFORT)  # the pick of a balancer that is blind to deadlines
        return self._when_infeasible(balancer, candidates, now, avoid)

    def _candidates(
        self, columns: Columns, request: Request, quality: float, now: float, avoid: Collection[str]
    ) -> Candidates:
        eligible = columns.eligible(request, quality, avoid, self.fleet.health.panic_share)
        return Candidates(columns, request, eligible, now)

    def _pick(self, balancer: Balancer, candidates: Candidates) -> int | None:
        request = candidates.request
        if request.sort is not None:
            candidates = candidates.narrowed(candidates.fit)
        for name in request.order:
            slot = balancer.pick(candidates.narrowed(candidates.columns.masks.named((name,))), self._rng)
            if slot is not None:
                return slot
        if request.order and not request.allow_fallbacks:
            return None
        return balancer.pick(candidates, self._rng)

    def _when_infeasible(
        self, balancer: Balancer, candidates: Candidates, now: float, avoid: Collection[str]
    ) -> Choice | Hold | Shed:
        """Nobody is predicted in time: what the request (or its route) wants then, in its order."""
        request = candidates.request
        quality = request.quality
        for step in request.when_infeasible:
            if step is Infeasible.DEGRADE and request.min_quality < quality:
                quality = request.min_quality
                candidates = self._candidates(candidates.columns, request, request.min_quality, now, avoid)
                slot = self._pick(balancer, candidates)
                if slot is not None:
                    return self._promised(candidates, slot, Status.DEGRADED)
            elif step is Infeasible.HOLD and not avoid:
                until = self._until(candidates.columns, request, quality, now)
                if until > now and not worth_trying(candidates, now):
                    return Hold(until)
            elif step is Infeasible.BEST_EFFORT and not request.patient:
                tried = self._try(candidates, now)
                if tried is not None:
                    return tried
            elif step is Infeasible.REJECT:
                break
        return refusal.why_nobody(candidates, now)

    def _promised(self, candidates: Candidates, slot: int, status: Status) -> Choice:
        """A pick that is in time: with its promise, unless that has been broken too often of late."""
        if candidates.open or candidates.request.patient:
            return Choice(candidates, slot, status)
        return Choice(candidates, slot, Status.BEST_EFFORT, test=True)

    def _try(self, candidates: Candidates, now: float) -> Choice | Shed | None:
        """Best effort: one of the nodes most likely to make it, cheaply; in overload only if that is likely enough."""
        request = candidates.request
        if request.order and not request.allow_fallbacks:
            candidates = candidates.narrowed(candidates.columns.masks.named(request.order))
        if not candidates.eligible.any():
            return None
        slack, chance = candidates.surest(now)
        policy = self._policies[request.policy]
        if policy.refuses_early(request, chance, now) and candidates.crowded_out(now):
            return admission.infeasible(candidates, now)
        slots = (slack >= slack.max() - NEARLY).nonzero()[0]
        return Choice(candidates, cheapest_with_room(candidates, slots, self._rng), Status.BEST_EFFORT)

    # Holding.

    def _until(self, columns: Columns, request: Request, quality: float, now: float) -> float:
        """Until when a request may be held: while some node could still start on it in time, its queue gone. -inf where
        there is no place for it."""
        most = self._policies[request.policy].admission.max_held
        if not self.waiting.holds(request) and not self.waiting.admits(request, most):
            return -INFINITE
        anybody = columns.eligible(request, quality, (), INFINITE)  # panic: who rests or is out may be back by then
        until = latest_start(Candidates(columns, request, anybody, now), now)
        return until if until - now >= SHORTEST_HOLD else -INFINITE

    def yielded(self, policy: Policy, choice: Choice | Hold | Shed, now: float) -> Choice | Hold | Shed:
        """While there is not enough for all, who has time to spare waits here until its node is free."""
        if not isinstance(choice, Choice) or not policy.admission.yielding or policy.overload.share <= CROWDED_FROM:
            return choice
        candidates = choice.candidates
        if candidates.columns.wait[choice.slot] <= FREE:
            return choice
        until = self._until(candidates.columns, candidates.request, candidates.request.quality, now) - TO_SPARE
        return Hold(until) if until - now >= SHORTEST_HOLD else choice

    def _free(self, request: Request) -> bool:
        """Whether some node may be free: one look at the waits says no to most that yield, and no decision is made."""
        columns = self.fleet.columns(request.model)
        if columns is None:
            return True
        columns.catch_up()
        return bool(columns.wait.min() <= FREE)

    def _not_its_turn(self, candidates: Candidates, now: float) -> Hold | Shed:
        """Its tenant has had its share, and others have not: it waits, or is refused, though it could be served."""
        request = candidates.request
        if request.holds or self._policies[request.policy].admission.yielding:
            until = self._until(candidates.columns, request, request.quality, now)
            if until > now:
                return Hold(until)
        return Shed(Reason.OVERLOADED, admission.OVER_SHARE, None, admission.MIN_RETRY_AFTER)

    def _contend(self, policy: Policy, request: Request, choice: Choice | Hold | Shed, now: float) -> None:
        """While there is not enough for all: keep its place or end it, and count what its tenant asks for and gets."""
        place = None if isinstance(choice, Hold) else self.waiting.leave(request)
        again, served = place is not None or self.waiting.holds(request), isinstance(choice, Choice)
        columns = self.fleet.columns(request.model)
        if columns is None or (again and not served):
            return
        cost = float(columns.evaluate(request, request.output_tokens)[2].min())
        policy.shares.count(request.tenant, cost, now, asked=not again, served=served)
        if served:
            self.waiting.serve(request, cost / policy.shares.weight(request.tenant))

    def _at_limit(self, request: Request, now: float) -> Hold | Shed:
        """As many requests as the policy allows are in flight."""
        columns = self.fleet.columns(request.model)
        if columns is not None and request.holds:
            until = self._until(columns, request, request.quality, now)
            if until > now:
                self.waiting.join(request, until, now)
                return Hold(until)
        self.waiting.leave(request)
        detail = "As many requests as this route allows are in flight."
        return Shed(Reason.OVERLOADED, detail, None, admission.MIN_RETRY_AFTER)

    # Hedges.

    def _hedge(self, policy: Policy, beside: Dispatch, now: float, avoid: Collection[str]) -> Dispatch | Hold | Shed:
        """Send a silent dispatch's request to a second worker too, if that is due and pays."""
        request, columns = beside.request, self.fleet.columns(beside.request.model)
        if policy.hedging is None or columns is None:
            return Shed(Reason.NO_CAPACITY)
        quality = request.min_quality if beside.status is Status.DEGRADED else request.quality
        candidates = self._candidates(columns, request, quality, now, avoid)
        slot = policy.hedging.consider(beside, candidates, policy.overload.floor > 0.0, now, self._rng)
        if not isinstance(slot, int):
            return slot
        node, cost = columns.nodes[slot], candidates.cost.item(slot)
        eta = node.eta(request, now)
        dispatch = Dispatch(request, node, now, len(avoid) + 1, beside.status, eta, cost, hedge=True)
        return self._reserved(dispatch, policy, test=False)

    # Accounting.

    def _reserved(self, dispatch: Dispatch, policy: Policy, test: bool) -> Dispatch:
        """The dispatch, which counts from now on and until `report`."""
        work = dispatch.node.work(dispatch.eta)
        policy.in_flight += 1
        self._open[id(dispatch)] = dispatch, policy, work, test
        self.fleet.reserve(dispatch, work)
        return dispatch

    def _calibrate(self, dispatch: Dispatch, outcome: Outcome, test: bool) -> None:
        """Learn how far off the prediction was, and whether the promise was kept."""
        calibration, request, eta, total = self.fleet.calibration, dispatch.request, dispatch.eta, outcome.total
        missed = not kept(dispatch, outcome)
        calibration.reliability.add(calibration.chance(request, eta, dispatch.at), not missed)  # before it learns of it
        if outcome.reason is None and total is not None:
            if not outcome.held_up:
                spread = eta.spread
                calibration.total.observe((total - eta.total) / (spread if spread > LEAST_SPREAD else LEAST_SPREAD))
            if request.stream:
                first = total if outcome.first_byte is None else outcome.first_byte
                calibration.first.observe((first - eta.first_token) / max(LEAST_SPREAD, eta.first_spread))
        if dispatch.status is Status.BEST_EFFORT:
            self._policies[request.policy].overload.tried(missed and outcome.executed)
        if test:
            calibration.tested(request.probability, request.tenant, missed)
        elif dispatch.status is not Status.BEST_EFFORT:
            calibration.settled(request.probability, request.tenant, missed)

    def _refuse_repeat(self, policy: Policy, request: Request, now: float, avoid: Collection[str]) -> Shed | None:
        if now >= request.deadline:
            return Shed(Reason.DEADLINE_EXCEEDED)
        if len(avoid) + request.client_retries > policy.budget.config.max_extra or not request.allow_fallbacks:
            return Shed(Reason.NO_CAPACITY, "No further attempt is allowed.", None, admission.MIN_RETRY_AFTER)
        return None

    def shadow(self, model: str) -> Shadow | None:
        """The second policy that a model's requests are put to, without effect (shadow.py); this router has none."""
        return None

    def adopt(self, other: Router) -> None:
        """Share the open dispatches and the held requests of the router this one replaces: each may be reported to
        either, and a request is routed again by the one that holds it."""
        assert not self._open
        self._open, self.waiting = other._open, other.waiting

    @property
    def open(self) -> int:
        """Dispatches not yet reported."""
        return len(self._open)

    def __repr__(self) -> str:
        return f"<Router {len(self._open)} open, {self.fleet!r}>"
