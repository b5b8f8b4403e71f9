"""One gateway: asks its contender, sends, retries, gives up, reports. What gateway/edge does, in virtual time.

    deciding   exchange.py: route, hold, refuse; every dispatch is reported exactly once
    attempts   attempt.py: how long one may take (`limit`), how long its worker may be silent (`patience`)
    hedges     hedge.py: a second attempt beside a silent one, until either has a first byte
    hearing    registry.py's part is in registry.py; here is what answers and asked-for loads tell

Connections are taken as pooled and warm; a worker that is gone refuses, one behind a cut is silent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadtests.simulator.call import DECODING, Call, Job
from loadtests.simulator.contender import POLICY, Contender
from loadtests.simulator.serving import Worker, reply_bytes
from loadtests.simulator.timeline import Timeline
from loadtests.simulator.wan import Way
from loadtests.workload import Class, Planned
from policies.reason import Reason
from policies.request import INFINITE, Change, Dispatch, Hold, LoadSeen, Outcome, Request, Shed, Status
from policies.retry import repeatable

if TYPE_CHECKING:
    from loadtests.simulator.ledger import Ledger

SPREADS = 4.0
SILENCE = 2.0
LONGER_ANSWERS = 3.0
STALL = 30.0
LONGEST = 600.0
"""As in gateway/edge/attempt.py."""
SHORTEST_HOLD = 0.001
"""A tick of the gateway's timer wheel, so that a hold until now is not for ever."""


class Edge:
    def __init__(
        self, timeline: Timeline, number: int, region: str, contender: Contender, workers: dict[str, Worker],
        ways: dict[str, Way], ledger: Ledger, expected: dict[Class, float],
    ) -> None:  # fmt: skip
        self.timeline = timeline
        self.number = number
        self.region = region
        self.contender = contender
        self.workers = workers
        self.ways = ways
        """To the workers' regions."""
        self.ledger = ledger
        self._expected = expected
        """Output tokens its routes assume, by class."""
        self.ages = {name: way.mean for name, way in ways.items()}
        """What it takes as the age of what a worker there answers itself: half the round trip."""
        self._held: dict[int, Call] = {}
        """By their request's identity."""
        self.heard = 0
        """Heartbeats, probes and reports taken."""

    def __repr__(self) -> str:
        return f"<Edge {self.number} in {self.region}, {len(self._held)} held>"

    # Deciding.

    def arrive(self, planned: Planned) -> None:
        """The whole request is here."""
        now = self.timeline.now
        call = self.ledger.open(planned, now)
        call.edge = self
        kind = planned.kind
        output = self._expected[kind]
        call.request = Request(
            id=str(call.number), model=kind.model, policy=POLICY, arrived=now,
            deadline=call.deadline, first_token_deadline=call.first_deadline,
            token_interval=INFINITE if kind.token_interval_s is None else kind.token_interval_s,
            probability=kind.probability, prompt_tokens=float(call.prompt), output_tokens=output,
            items=planned.items, reply_bytes=reply_bytes(output, call.stream), stream=call.stream,
            quality=max(kind.quality, kind.min_quality), min_quality=kind.min_quality, tenant=planned.tenant,
            affinity=planned.session, when_infeasible=self.contender.when_infeasible,
        )  # fmt: skip
        self._route(call)

    def _route(self, call: Call) -> None:
        contender = self.contender
        decision = self._decide(call, contender)
        if isinstance(decision, Hold):
            self._hold(call, contender, decision.until)
            return
        if self._held:
            self._held.pop(id(call.request), None)
        if isinstance(decision, Dispatch):
            self._forward(call, decision, contender)
        else:
            self._end(call, decision.reason)

    def _hold(self, call: Call, contender: Contender, until: float) -> None:
        self._held[id(call.request)] = call
        call.holder, call.held_until = contender, min(until, call.request.deadline)
        due = max(call.held_until, self.timeline.now + SHORTEST_HOLD)
        if due < call.wakes_at:
            call.wakes_at = due
            self.timeline.at(due, self._held_long_enough, call)

    def _decide(self, call: Call, contender: Contender, beside: Dispatch | None = None) -> Dispatch | Hold | Shed:
        began = time.thread_time()
        decision = contender.route(call.request, self.timeline.now, call.tried, beside)
        self.ledger.decided(time.thread_time() - began)
        for worker_id in contender.probes():
            self._ask(worker_id)
        return decision

    def _held_long_enough(self, call: Call) -> None:
        call.wakes_at = INFINITE
        if id(call.request) not in self._held:
            return
        if self.timeline.now < call.held_until:
            self._hold(call, call.holder, call.held_until)
        elif self.timeline.now >= call.request.deadline:
            self._let_go(call)
            self._end(call, Reason.DEADLINE_EXCEEDED)
        else:
            self._route(call)

    def _let_go(self, call: Call) -> None:
        """It is held no longer, and was not routed."""
        if self._held.pop(id(call.request), None) is not None:
            call.holder.waiting.leave(call.request)

    def release(self) -> None:
        """Something changed: those held may go, as far as the contender thinks so."""
        for request in self.contender.waiting.front():
            self._route(self._held[id(request)])

    # Attempts.

    def _forward(self, call: Call, dispatch: Dispatch, contender: Contender) -> None:
        if not call.tried:
            call.status = dispatch.status
            call.predicted = contender.fleet.calibration.chance(dispatch.request, dispatch.eta, self.timeline.now)
        call.job = job = self._send(call, dispatch, contender)
        if dispatch.hedge_at < INFINITE:
            self.timeline.at(dispatch.hedge_at, self._hedge, job)

    def _send(self, call: Call, dispatch: Dispatch, contender: Contender) -> Job:
        timeline = self.timeline
        now = timeline.now
        worker = self.workers[dispatch.node.worker.id]
        job = Job(self, call, dispatch, contender, worker)
        job.limit = limit(dispatch)
        call.tried.append(worker.id)
        call.attempts += 1
        way = job.way
        if not way.cut:
            timeline.at(now + way.draw(), worker.arrive, job)
        timeline.at(now + min(SILENCE, (job.limit - now) / 2), self._ring, job)
        return job

    def _hedge(self, job: Job) -> None:
        """The worker has been silent for longer than nearly all its answers take: maybe another one is to try too."""
        call, now = job.call, self.timeline.now
        if job.settled or job.first_byte is not None:
            return
        decision = self._decide(call, job.contender, job.dispatch)
        if isinstance(decision, Hold):
            self.timeline.at(max(decision.until, now + SHORTEST_HOLD), self._hedge, job)
        elif isinstance(decision, Dispatch):
            call.hedges += 1
            other = self._send(call, decision, job.contender)
            job.beside, other.beside = other, job

    def _win(self, job: Job) -> None:
        """The first byte of a pair decides: the other is cancelled at once."""
        other = job.beside
        if other is not None:
            self._part(job, other)
            self._settle(other, Reason.OUTRUN)
            self._abandon(other)

    @staticmethod
    def _part(left: Job, other: Job) -> None:
        """`left` goes on alone."""
        left.beside = other.beside = None
        left.call.job = left

    def _ring(self, job: Job) -> None:
        """The alarm of an attempt: whatever was nearest has passed."""
        if job.settled:
            return
        timeline = self.timeline
        now = timeline.now
        if now >= job.limit:
            self._fail(job, Reason.DEADLINE_EXCEEDED)
        elif job.first_byte is None:
            quiet_until = job.dispatch.at + patience(job)
            if now < quiet_until:
                timeline.at(min(job.limit, quiet_until), self._ring, job)
            else:
                self._give_up(job)
        elif job.stage == DECODING and not job.way.cut:  # its tokens keep coming
            timeline.at(min(job.limit, now + STALL), self._ring, job)
        elif not job.stalled:  # either its last token is on the way, or nothing will ever come: one stall tells
            job.stalled = True
            timeline.at(min(job.limit, now + STALL), self._ring, job)
        else:
            self._fail(job, Reason.UPSTREAM_LOST)

    def _give_up(self, job: Job) -> None:
        """The worker has been silent too long. Only with another one at hand is it worse than waiting on."""
        call = job.call
        decision = self._decide(call, job.contender) if job.beside is None else None
        if isinstance(decision, Dispatch):
            self._settle(job, Reason.DEADLINE_EXCEEDED)
            self._abandon(job)
            self._forward(call, decision, job.contender)
        else:
            self.timeline.at(job.limit, self._ring, job)

    def _abandon(self, job: Job) -> None:
        """Leave the worker; it learns of it when the way lets it."""
        if not job.way.cut:
            self.timeline.at(self.timeline.now + job.way.draw(), job.worker.cancel, job)

    def _fail(self, job: Job, reason: Reason, *, executed: bool = True) -> None:
        """The attempt is over without an answer: another worker, or the client gets to know."""
        call, now = job.call, self.timeline.now
        streaming = job.first_byte is not None and call.stream
        if streaming and reason is Reason.UPSTREAM_LOST:
            reason = Reason.STREAM_INTERRUPTED
        outcome = self._settle(job, reason, executed=executed)
        self._abandon(job)
        if job.beside is not None:
            self._part(job.beside, job)
            return
        if not streaming and now < job.limit and repeatable(outcome, pure=True):
            decision = self._decide(call, job.contender)
            if isinstance(decision, Dispatch):
                self._forward(call, decision, job.contender)
                return
        self._end(call, reason)

    # What workers say.

    def began(self, job: Job) -> None:
        """The first token of a stream."""
        if job.settled:
            return
        now = self.timeline.now
        self._win(job)
        job.first_byte = now - job.dispatch.at
        self.ledger.begin(job.call, now)
        if job.report is not None:
            self.observe(LoadSeen(job.report, self.ages[job.worker.region]))

    def done(self, job: Job) -> None:
        """The whole answer."""
        if job.settled:
            return
        call, now = job.call, self.timeline.now
        self._win(job)
        if call.first is None:
            self.ledger.begin(call, now)
            job.first_byte = now - job.dispatch.at
        call.worker = job.worker
        call.variant_quality = job.service.profile.quality
        call.ended = now
        call.met = met = self._in_time(call)
        call.predicted_met = met and job.dispatch.attempt == 1
        outcome = Outcome(
            first_byte=job.first_byte, total=now - job.dispatch.at, queue=job.queue, prefill=job.prefill,
            decode=job.decode, accelerator=job.accelerator, output_tokens=job.generated,
            reply_bytes=int(reply_bytes(job.generated, call.stream)),
        )  # fmt: skip
        job.settled = True
        job.contender.report(job.dispatch, outcome, now)
        if job.report is not None:
            self.observe(LoadSeen(job.report, self.ages[job.worker.region]))
        self.ledger.close(call)
        if self._held:
            self.release()

    def hang_up(self, call: Call) -> None:
        """The client leaves."""
        self._let_go(call)
        job = call.job
        for attempt in (job, job.beside) if job is not None else ():
            if attempt is not None and not attempt.settled:
                self._settle(attempt, Reason.CLIENT_GONE)
                self._abandon(attempt)
        call.reason = Reason.CLIENT_GONE
        call.ended = self.timeline.now
        self.ledger.close(call)

    def refused(self, job: Job) -> None:
        """It said that it executed nothing, or does not accept connections."""
        if not job.settled:
            assert job.reason is not None
            self._fail(job, job.reason, executed=False)

    def failed(self, job: Job) -> None:
        """It answered with an error of its own."""
        if not job.settled:
            self._fail(job, Reason.UPSTREAM_ERROR)

    def lost(self, job: Job) -> None:
        """The connection broke."""
        if not job.settled:
            self._fail(job, Reason.UPSTREAM_LOST)

    # Settling.

    def _settle(self, job: Job, reason: Reason, *, executed: bool = True) -> Outcome:
        """Report a failed attempt, exactly once."""
        assert not job.settled, job
        now = self.timeline.now
        job.settled = True
        outcome = Outcome(reason=reason, executed=executed, first_byte=job.first_byte, total=now - job.dispatch.at)
        job.contender.report(job.dispatch, outcome, now)
        return outcome

    def _end(self, call: Call, reason: Reason) -> None:
        """The client gets an error instead of (the rest of) an answer."""
        call.reason = reason
        call.ended = self.timeline.now
        self.ledger.close(call)
        if self._held:
            self.timeline.at(self.timeline.now, self._released, None)

    def _released(self, _: None) -> None:
        self.release()

    @staticmethod
    def _in_time(call: Call) -> bool:
        first, ended = call.first, call.ended
        assert first is not None
        assert ended is not None
        if first > call.first_deadline or ended > call.deadline:
            return False
        pace = call.kind.token_interval_s
        return pace is None or call.output < 2 or ended - first <= pace * (call.output - 1)

    # Hearing.

    def observe(self, change: Change) -> None:
        """Let the contender know."""
        self.heard += 1
        self.contender.observe(change, self.timeline.now)
        if self._held:
            self.release()

    def _ask(self, worker_id: str) -> None:
        """Send a probe of the contender's own."""
        worker = self.workers[worker_id]
        way = self.ways[worker.region]
        if not way.cut:
            self.timeline.at(self.timeline.now + way.draw(), self._asked, worker)

    def _asked(self, worker: Worker) -> None:
        """At the worker: it answers from memory, if it is there."""
        way = self.ways[worker.region]
        if worker.up and not way.cut:
            change = LoadSeen(worker.load(), self.ages[worker.region])
            self.timeline.at(self.timeline.now + way.draw(), self.observe, change)


def limit(dispatch: Dispatch) -> float:
    """When an attempt must be over: at the deadline; best effort gets its time."""
    request = dispatch.request
    limit = request.deadline if request.deadline < INFINITE else dispatch.at + LONGEST
    if dispatch.status is Status.BEST_EFFORT:
        return max(limit, dispatch.at + dispatch.eta.total + request.patience)
    return limit


def patience(job: Job) -> float:
    """Seconds of silence after which another worker should be tried, as far as the budget lets one be tried."""
    dispatch = job.dispatch
    eta, budget = dispatch.eta, job.limit - dispatch.at
    expected = eta.first_token if dispatch.request.stream else eta.total + LONGER_ANSWERS * eta.decode
    return max(min(expected + SPREADS * eta.spread, budget), min(SILENCE, budget / 2))
