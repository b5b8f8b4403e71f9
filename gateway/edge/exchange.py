"""One client request's life, from its last byte to the end of its answer; its states and their theory are state.py's.

It decides (what is asked, which node), forwards, relays; repeats an attempt elsewhere while nothing has reached the
client; gives up in time. That all of it ends well is ending.py's. Bytes are cut and framed in relay.py, sockets are
upstream.py's and client.py's.
"""

from __future__ import annotations

import logging

from gateway.edge import loads, relay, surface, wire
from gateway.edge.attempt import STALL, Attempt, limit
from gateway.edge.ending import Ending
from gateway.edge.hedge import Hedge, answers
from gateway.edge.state import BUFFER, CONNECT, DECIDE, HELD, SENT, STREAM
from gateway.edge.stay import Stay
from gateway.edge.upstream import Link, Pool
from policies.reason import Reason
from policies.records import Timings, Worker
from policies.request import INFINITE, Dispatch, Hold, Request, Shed
from policies.retry import repeatable
from policies.router import Router

log = logging.getLogger(__name__)


class Exchange(Ending):
    """One request. Its connection calls `start`, perhaps `cancel`; all else comes from links, pools and the alarm."""

    __slots__ = ("_request",)

    _request: Request

    # Decide.

    def start(self) -> None:
        """The whole request is here."""
        shed = self.call.identify(self._plane)
        self.answer.id = self.call.id
        method = self.call.head.method
        if shed is not None:
            self._refuse(shed)
        elif method == b"POST":
            self._decide()
        elif method == b"GET":
            self._inform()
        else:
            self._refuse(Shed(Reason.METHOD_NOT_ALLOWED))

    def _decide(self) -> None:
        plane = self._plane
        request = self.call.understand(plane)
        if isinstance(request, Shed):
            self._refuse(request)
        else:
            self._request = request
            self._route(request, plane.clock())

    def _route(self, request: Request, now: float) -> None:
        router = self._plane.router
        decision = router.route(request, now, self._tried)
        if isinstance(decision, Dispatch):
            self._forward(decision, now)
        elif isinstance(decision, Hold):
            self._go(HELD)
            self._stay = Stay(self, self._plane, request, router, now)
            self._plane.wheel.set(self._watch, decision.until)
        else:
            self._refuse(decision)

    def again(self, stay: Stay, now: float) -> None:
        """Held so far: there may be room, or it has been held as long as it may."""
        if now >= stay.request.deadline:
            self._fail(Reason.DEADLINE_EXCEEDED)
            return
        decision = stay.router.route(stay.request, now)
        if isinstance(decision, Hold):
            self._plane.wheel.set(self._watch, decision.until)
            return
        self._go(DECIDE)
        if isinstance(decision, Dispatch):
            stay.end("sent", now)
            self._forward(decision, now, stay.router)
        else:
            stay.end("refused", now)
            self._refuse(decision)

    def _inform(self) -> None:
        """GET: answered here, from what the fleet has registered."""
        content = surface.inform(self.call.head.path, self._plane.router.fleet)
        if isinstance(content, Shed):
            self._refuse(content)
        else:
            self.answer.json(content)
            self._finish()

    # Forward.

    def _forward(self, dispatch: Dispatch, now: float, router: Router | None = None) -> None:
        """`router` is who decided, if not the one in force."""
        plane, worker = self._plane, dispatch.node.worker
        if self._tried:
            self._go(DECIDE)
        self._tried.append(worker.id)
        plane.telemetry.dispatched(dispatch)
        pool = self._pool(worker)
        self._attempt = attempt = Attempt(router or plane.router, dispatch, pool, limit(dispatch), dispatch.hedge_at)
        link = pool.take()
        if link is None:
            self._connect(attempt, now)
        else:
            self._send(attempt, link, now)
        if dispatch.probes:
            plane.ask(dispatch.probes)

    def _pool(self, worker: Worker) -> Pool:
        """Where its links come from."""
        return self._plane.upstream.of(worker.address)

    def _connect(self, attempt: Attempt, now: float) -> None:
        self._go(CONNECT)
        attempt.link = None
        timeout = max(self._plane.upstream.connect_timeout, attempt.connect_timeout)
        attempt.sent = now + timeout
        self._watch_for(attempt, attempt.sent + attempt.patience)
        attempt.pool.connect(self, timeout)

    def connected(self, link: Link) -> None:
        """The pool has a link for us."""
        attempt = self._attempt
        assert attempt is not None
        self._send(attempt, link, self._plane.clock())

    def unreachable(self) -> None:
        """The worker does not accept connections."""
        self._fail(Reason.CONNECT_FAILED, executed=False)

    def _send(self, attempt: Attempt, link: Link, now: float) -> None:
        self._go(SENT)
        attempt.link = link
        link.caller = self  # before anything can fail: whoever drops the attempt then gives the link back
        attempt.sent = now
        call = self.call
        target, body = call.addressed(attempt.dispatch.node)
        head = attempt.head(call.head, target, len(body), call.id.encode(), call.asked.traceparent, now)
        link.send(self, head, body)
        due = now + attempt.least_patience
        self._plane.wheel.set(self._watch, due if due < attempt.hedge_at else attempt.hedge_at)

    # Relay.

    def received(self, link: Link) -> None:
        """The worker said something on our link."""
        attempt, reply = self._attempt, link.reply
        assert attempt is not None
        now = self._plane.clock()
        attempt.hear(link, now)
        if self._hedge is not None and reply.headed:
            self._race(attempt, link, now)
        if self.state is SENT:
            if not reply.headed:
                return
            attempt.named = named = dict(reply.fields)
            attempt.report, attempt.reported = named.get(loads.REPORT), now
            reason = relay.verdict(reply, named)
            if reason is not None:
                self._fail(reason, executed=not relay.unexecuted(reply, named))
                return
            if relay.streams(named):
                attempt.events = relay.Events()
                if attempt.report is not None:
                    loads.learn(self._plane, attempt, now)
            elif reply.complete:  # all of it at once: the common case
                self._complete(attempt, link, now)
                return
            self._go(BUFFER)
        if attempt.events is not None:
            self._relay_events(attempt, attempt.events, link)
        elif self.state is STREAM:
            self._relay_rest(attempt, link)
        elif reply.complete:
            self._complete(attempt, link, now)
        elif reply.size > self._plane.limits.reply_buffer_bytes:
            self._begin(attempt, link, attempt.named.get(b"content-length"))
            self._relay_rest(attempt, link)
        if self.state is BUFFER:
            self._watch_for(attempt, now + STALL)

    def _complete(self, attempt: Attempt, link: Link, now: float) -> None:
        """A whole unary answer, and nothing of it sent yet: the common case."""
        reply = link.reply
        content = reply.take()
        generated = relay.output_tokens(content) if self.call.generates else None
        cost = self._settle(None, now, True, relay.timings(attempt.named), generated)
        self.answer.whole(reply.status, self._head(attempt, link, cost), content)
        link.release()
        self._finish()

    def _begin(self, attempt: Attempt, link: Link, length: bytes | None) -> None:
        """Commit: the head goes to the client."""
        self._go(STREAM)
        self.answer.begin(link.reply.status, self._head(attempt, link, attempt.dispatch.cost), length)
        self.answer.outlet.attach(link.transport)
        self._plane.wheel.set(self._watch, min(attempt.limit, attempt.heard + STALL))

    def _relay_events(self, attempt: Attempt, events: relay.Events, link: Link) -> None:
        reply = link.reply
        try:
            whole = events.feed(reply.take())
        except relay.OversizeError:
            self._fail(Reason.BAD_UPSTREAM_REPLY)
            return
        if reply.complete:
            whole += events.finish()
        if self.state is BUFFER and (whole or reply.complete):
            self._begin(attempt, link, None)
        if whole:
            self.answer.piece(whole)
        if reply.complete:
            attempt.report, attempt.reported = events.report, attempt.heard
            self._end(link, events.timings, events.output_tokens)

    def _relay_rest(self, attempt: Attempt, link: Link) -> None:
        """A unary answer too large to hold back."""
        data = link.reply.take()
        if data:
            self.answer.piece(data)
        if link.reply.complete:
            self._end(link, relay.timings(attempt.named), None)

    def _end(self, link: Link, timings: Timings, generated: int | None) -> None:
        """The worker has ended a streamed answer cleanly, and so do we."""
        self.answer.end()
        self._settle(None, self._plane.clock(), True, timings, generated)
        self.answer.outlet.detach()
        link.release()
        self._finish()

    def _head(self, attempt: Attempt, link: Link, cost: float) -> bytes:
        """The answer's head without framing: what the worker said, and what of the decision the client gets to see."""
        call, shown = self.call, self._plane.decision_headers
        head = relay.head(link.reply, call.id.encode())
        if call.nearest:
            head += wire.NEAREST + call.nearest
        if shown == "always" or (call.asked.explain and shown != "never"):
            held = 0.0 if self._stay is None else self._stay.seconds
            routed = attempt.dispatch.at - call.arrived - held
            head += relay.decision(attempt.dispatch, attempt.outcome, cost, routed, held)
        return head

    # Attempts that fail.

    def lost(self, link: Link, clean: bool) -> None:
        """The worker's side of the link is gone."""
        attempt, reply = self._attempt, link.reply
        assert attempt is not None
        now = self._plane.clock()
        if self.state is SENT and attempt.raced(now) and self._repeats_safely():
            attempt.resent = True
            self._connect(attempt, now)
            return
        if clean and reply.headed and not relay.framed(reply, attempt.named):
            ended = attempt.events is None or attempt.events.done
            if ended and self.state in (BUFFER, STREAM):
                reply.complete = True  # such a body ends with its connection
                self.received(link)
                return
        self._fail(Reason.UPSTREAM_LOST)

    def garbled(self, link: Link) -> None:
        """The worker broke HTTP; the link is closed already."""
        self._fail(Reason.BAD_UPSTREAM_REPLY)

    def ring(self, now: float) -> None:
        """The alarm: whatever was nearest has passed."""
        try:
            self._rang(now)
        except Exception:
            log.exception("%r failed", self)
            self.broke()

    def _rang(self, now: float) -> None:
        attempt = self._attempt
        if self._stay is not None and self.state is HELD:
            self.again(self._stay, now)
        elif attempt is None or now >= attempt.limit:
            self._fail(Reason.DEADLINE_EXCEEDED)
        elif now >= attempt.hedge_at:
            self._ask_for_hedge(attempt, now)
            self._rang(now)  # whatever else is due
        elif self.state in (CONNECT, SENT):
            if now < attempt.sent + attempt.patience:
                self._watch_for(attempt, attempt.sent + attempt.patience)
            elif attempt.hedge_at < INFINITE:
                self._watch_for(attempt, attempt.limit)  # it gets company, which is better than to be given up
            else:
                self._give_up(attempt, now)
        elif now < attempt.heard + STALL or self.answer.outlet.paused:
            self._watch_for(attempt, max(now, attempt.heard) + STALL)
        else:
            self._fail(Reason.UPSTREAM_LOST)

    def _watch_for(self, attempt: Attempt, due: float) -> None:
        """Set the alarm for what is nearest: `due`, the attempt's limit, its hedge."""
        self._plane.wheel.set(self._watch, min(due, attempt.limit, attempt.hedge_at))

    def _give_up(self, attempt: Attempt, now: float) -> None:
        """The worker has been silent too long. Only with another one at hand is it worse than waiting on."""
        if self._hedge is None and self._repeats_safely():
            decision = attempt.router.route(self._request, now, self._tried)
            if isinstance(decision, Dispatch):
                self._settle(Reason.DEADLINE_EXCEEDED, now)
                self._drop(attempt)
                self._forward(decision, now)
                return
        self._watch_for(attempt, attempt.limit)

    def _fail(self, reason: Reason, *, executed: bool = True) -> None:
        """The attempt is over without an answer: another node, or the client gets to know."""
        attempt, now = self._attempt, self._plane.clock()
        if attempt is None:
            self._refuse(Shed(reason))
            return
        streaming = self.state is STREAM
        if streaming and reason is Reason.UPSTREAM_LOST:
            reason = Reason.STREAM_INTERRUPTED
        self._settle(reason, now, executed=executed)
        self._drop(attempt)
        if self._hedge is not None:
            self._promote(self._hedge, now)
        elif streaming or not self._repeat(attempt, now):
            self._conclude(reason)

    def _repeat(self, failed: Attempt, now: float) -> bool:
        """Try another node, if the attempt may be repeated and there is one."""
        assert failed.outcome is not None
        if now >= failed.limit or not repeatable(failed.outcome, self._repeats_safely()):
            return False
        decision = failed.router.route(self._request, now, self._tried)
        if not isinstance(decision, Dispatch):
            return False
        self._forward(decision, now)
        return True

    # Hedged pairs (hedge.py).

    def _ask_for_hedge(self, attempt: Attempt, now: float) -> None:
        """The worker has been silent for longer than nearly all its answers take: maybe another one is to try too."""
        attempt.hedge_at = INFINITE
        if attempt.first_byte is not None or not self._repeats_safely():
            return
        decision = attempt.router.route(self._request, now, self._tried, attempt.dispatch)
        if isinstance(decision, Hold):
            attempt.hedge_at = decision.until
        elif isinstance(decision, Dispatch):
            plane, worker = self._plane, decision.node.worker
            self._tried.append(worker.id)
            plane.telemetry.dispatched(decision)
            pool = self._pool(worker)
            self._hedge = Hedge(self, plane, Attempt(attempt.router, decision, pool, limit(decision)))
            self._hedge.start(now)

    def _race(self, attempt: Attempt, link: Link, now: float) -> None:
        """The first of a pair has said something: if that begins an answer, it has won."""
        reply = link.reply
        if answers(attempt, reply) and relay.verdict(reply, dict(reply.fields)) is None:
            self._end_hedge(Reason.OUTRUN, now, "lost")

    def outrun(self, link: Link) -> None:
        """The hedge has begun its answer before the first: the first is cancelled, and the answer is the client's."""
        first, hedge, now = self._attempt, self._hedge, self._plane.clock()
        assert first is not None
        assert hedge is not None
        self._settle(Reason.OUTRUN, now)
        self._drop(first)
        self._promote(hedge, now)
        self.received(link)

    def unhedged(self, reason: Reason, *, executed: bool = True) -> None:
        """The hedge has failed; the first goes on."""
        self._end_hedge(reason, self._plane.clock(), "failed", executed=executed)

    def _promote(self, hedge: Hedge, now: float) -> None:
        """The first is settled: the hedge takes its place."""
        self._plane.telemetry.count("hedges.won")
        self._hedge = None
        self._attempt = attempt = hedge.attempt
        self._go(DECIDE)
        link = attempt.link
        if link is None:
            hedge.leave()
            self._connect(attempt, now)
            return
        self._go(SENT)
        link.caller = self
        self._watch_for(attempt, attempt.sent + attempt.patience)

    def _repeats_safely(self) -> bool:
        """Whether an attempt of which nobody knows how far it came may be repeated (R3)."""
        return self._plane.routes.pure(self._request.model)
