"""How a request ends, whatever happens: each dispatch is reported exactly once, and its client gets exactly one ending.

An exchange is in debt to two sides: to the router, of which it holds a reservation, and to its client. Here is what it
has tried so far and all that pays either; how it gets to an answer is exchange.py's.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable

from gateway.edge import loads
from gateway.edge.answer import Answer
from gateway.edge.attempt import Attempt
from gateway.edge.call import Call
from gateway.edge.flow import Outlet
from gateway.edge.hedge import Hedge
from gateway.edge.plane import Plane
from gateway.edge.state import DECIDE, DONE, STREAM, TRANSITIONS, State
from gateway.edge.stay import Stay, release
from gateway.edge.upstream import Caller
from gateway.edge.wheel import Alarm
from gateway.ring import Trace, Tried
from policies.cost import bill
from policies.reason import Reason
from policies.records import NO_TIMINGS, Timings
from policies.request import Shed

log = logging.getLogger(__name__)


class Watch(Alarm):
    """The alarm of whatever exchange a connection has. It outlives exchanges: setting it anew is mostly one assignment,
    where an alarm for each would be put into the wheel and taken out again."""

    __slots__ = ("exchange",)

    def __init__(self) -> None:
        super().__init__()
        self.exchange: Ending | None = None

    def ring(self, now: float) -> None:
        if self.exchange is not None:
            self.exchange.ring(now)


class Ending(Caller):
    """What every exchange has and owes. `cancel` and `broke` may come at any time, after the end too."""

    __slots__ = ("_answered", "_attempt", "_ended", "_hedge", "_plane", "_shed", "_stay", "_tried", "_watch", "answer",
                 "call", "state")  # fmt: skip

    def __init__(
        self, plane: Plane, outlet: Outlet, watch: Watch, call: Call, answered: Callable[[Ending, float], None]
    ) -> None:
        self.state = DECIDE
        self._plane = plane
        self._watch = watch
        watch.exchange = self
        self._answered = answered
        self.call = call
        self.answer = Answer(outlet, call.head, call.keep and not plane.draining)
        self._tried: list[str] = []
        """Workers that have been sent it, or were to be."""
        self._attempt: Attempt | None = None
        """The last of them, hedges aside."""
        self._hedge: Hedge | None = None
        """What runs beside it until one of the two answers."""
        self._stay: Stay | None = None
        """Among those held, if it ever was."""
        self._ended: list[Tried] = []
        """Attempts that have been settled."""
        self._shed: Shed | None = None
        """Why it was refused."""

    def __repr__(self) -> str:
        worker = self._tried[-1] if self._tried else "-"
        return f"<Exchange {self.call.id} {self.state.name} attempt {len(self._tried)} at {worker}>"

    def _go(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            self._plane.illegal(f"{self!r} -> {state.name}")
        self.state = state

    # What the router is owed.

    def _settle(
        self,
        reason: Reason | None,
        now: float,
        executed: bool = True,
        timings: Timings = NO_TIMINGS,
        generated: int | None = None,
        attempt: Attempt | None = None,
    ) -> float:
        """Report the attempt (or the given one), exactly once; what it cost in US dollars. Arguments as
        `Attempt.settle` has them."""
        attempt = attempt or self._attempt
        assert attempt is not None
        dispatch = attempt.dispatch
        outcome = attempt.settle(reason, now, executed, timings, generated, self.answer.outlet.held_up)
        if attempt.report is not None:
            loads.learn(self._plane, attempt, now)
        cost = bill(dispatch.node, dispatch.request, outcome)
        self._plane.telemetry.settled(dispatch, outcome, cost)
        self._ended.append(Tried(dispatch, outcome, cost))
        if reason is None and not outcome.client_error:
            self.call.answered(generated)
        return cost

    def _drop(self, attempt: Attempt) -> None:
        """Leave the worker at once; this is how it learns that its work is not wanted any more."""
        self.answer.outlet.detach()
        attempt.pool.forget(self)
        link = attempt.link
        if link is not None and link.caller is self:
            link.release()  # which closes it, unless its reply is complete

    def _end_hedge(self, reason: Reason, now: float, outcome: str = "abandoned", *, executed: bool = True) -> None:
        """The hedge, if there is one, is over and has not answered; `outcome` is what it counts as."""
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            self._plane.telemetry.count(f"hedges.{outcome}")
            self._settle(reason, now, executed, attempt=hedge.attempt)
            hedge.leave()

    # What the client is owed.

    def _conclude(self, reason: Reason) -> None:
        """Give the client its ending: an error, or what of the answer has gone out is broken off."""
        attempt = self._attempt
        if self.state is STREAM and attempt is not None:
            self.answer.interrupt(reason, events=attempt.events is not None)
            self._finish()
        else:
            self._refuse(Shed(reason))

    def _refuse(self, shed: Shed) -> None:
        """The client gets an error instead of an answer."""
        if not self._tried:
            self._plane.telemetry.refused(shed.reason)
        self._shed = shed
        self.answer.refuse(shed, attempts=len(self._tried))
        self._finish()

    def _finish(self) -> None:
        """The client has its ending."""
        plane, call, status = self._plane, self.call, self.answer.status
        self._go(DONE)
        self._watch.exchange = None  # which may ring once more, for nobody
        now = plane.clock()
        plane.telemetry.finished(status, now - call.arrived)
        held = 0.0
        if self._stay is not None:
            self._stay.end("left", now)
            held = self._stay.seconds
        if call.request is not None or self._shed is not None:  # what a GET was told is no decision
            plane.ring.add(Trace(call.id, call.request, self._ended, self._shed, status, now, held=held))
        self._answered(self, now)
        if plane.router.waiting.lines:
            release(plane, now)

    # Whatever happens.

    @abstractmethod
    def ring(self, now: float) -> None:
        """The alarm."""

    def cancel(self, reason: Reason = Reason.CLIENT_GONE) -> None:
        """The client left, or listens no longer for the reason given."""
        plane = self._plane
        if self.state is DONE:
            return
        plane.telemetry.count("edge.cancelled")
        self._end_hedge(Reason.CLIENT_GONE, plane.clock())
        if self._attempt is not None and self._attempt.outcome is None:
            self._settle(reason, plane.clock())
            self._drop(self._attempt)
        self.answer.abandon()
        self._finish()

    def broke(self) -> None:
        """A fault of ours while working for this exchange: no further attempt, but an ending for the client."""
        self._plane.telemetry.count("edge.faults")
        if self.state is DONE:
            return
        attempt = self._attempt
        if attempt is not None:
            try:
                self._end_hedge(Reason.INTERNAL, self._plane.clock())
                if attempt.outcome is None:
                    self._settle(Reason.INTERNAL, self._plane.clock())
            except Exception:
                log.exception("%r could not be settled", self)
            self._drop(attempt)
        self._conclude(Reason.INTERNAL)
