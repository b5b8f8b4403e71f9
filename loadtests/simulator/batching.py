"""A worker iteration by iteration: continuous batching with chunked prefill, KV blocks and preemption, as vLLM does it.

An iteration takes  a + b * decoding + c * prompt tokens  seconds (decode_s, decode_batch_s, 1 / prefill_tokens_per_s,
fit.py), times the slowness of the moment. It gives every decoding job one token, and spends what its budget of tokens
leaves (`prefill_chunk`) on the prompts at hand, first come first. A job is let in when a slot is free and its prompt
fits into free blocks; when a token finds no block, whoever was let in last goes back to the head of the line and is
computed anew.

Iterations that would all be alike are one event: nothing changes until a job is through, blocks run out, or somebody
comes or goes; then it ends with the iteration under way.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

from loadtests.simulator.call import DECODING, PREFILLING, WAITING, Job
from loadtests.simulator.serving import Worker
from loadtests.simulator.world import Queue
from policies.reason import Reason

BLOCK = 16
"""Tokens of one KV block: vLLM's default."""


class Seat:
    """A job that was let in."""

    __slots__ = ("begun", "blocks", "context", "job", "joined", "left", "order", "seconds", "share")

    def __init__(self, job: Job, order: int, blocks: int) -> None:
        self.job = job
        self.order = order
        """Who was let in later goes first when blocks run out."""
        self.blocks = blocks
        """Held when it began to decode (before that: its prompt's)."""
        self.left = job.prompt + job.generated
        """Tokens still to be computed before it decodes: after a preemption, its own ones too."""
        self.begun = False
        """Whether an iteration has worked on it."""
        self.context = 0
        """Tokens in memory when it began to decode, ... (0: it has not begun)"""
        self.joined = 0
        """...with this iteration."""
        self.share = 0.0
        """What the worker's account of decoding stood at when it joined."""
        self.seconds = 0.0
        """Of the accelerator, spent on it so far (its decoding aside)."""


class Batching(Worker):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._edf = self.serving.queue is Queue.EDF
        profile = self.main.profile
        self._chunk = profile.prefill_chunk
        self.blocks = self.free = profile.kv_tokens // BLOCK
        """Of KV memory: all, and those nobody has."""
        self._seats: dict[Job, Seat] = {}
        self._prefilling: list[Seat] = []
        self._decoding: dict[Job, Seat] = {}
        self._finishes: list[tuple[int, int, Seat]] = []
        """A heap by the iteration that makes the last token; entries of those that left are skipped."""
        self._phases = [0] * BLOCK
        """How many decoding jobs open a block in an iteration whose number is this, modulo the block."""
        self._iteration = 0
        self._decoded = 0.0
        """Accelerator seconds that every job has been charged which decoded all the time."""
        self._lump: Lump | None = None
        self._order = 0
        self.preempted = 0

    # What comes and goes.

    def take(self, job: Job) -> None:
        self.waiting += 1
        self.queued_tokens += job.prompt
        self.line.put(job)
        self._interrupt()

    def drop(self, job: Job) -> None:
        if job.stage == WAITING:
            self._leave_line(job)
            self._book(job, job.accelerator)
            return
        self._catch_up()
        seat = self._seats[job]
        if seat.context:
            job.generated = self._tokens(seat)
        self._stand_up(seat)
        self._book(job, self._spent(seat))

    def jobs(self) -> list[Job]:
        waiting = [job for job in self.line.jobs() if job.stage == WAITING]
        return waiting + sorted(self._seats, key=lambda job: job.call.number)

    def _book(self, job: Job, accelerator: float) -> None:
        """Charge a job that is over."""
        now = self.timeline.now
        first = job.first or now
        began = job.started or now
        self.charge(job, first - began, now - first, accelerator)

    def _leave_line(self, job: Job) -> None:
        self.waiting -= 1
        self.queued_tokens -= job.prompt + job.generated

    def _stand_up(self, seat: Seat) -> None:
        """Free a job's slot and blocks."""
        del self._seats[seat.job]
        if seat.context:
            del self._decoding[seat.job]
            self._phases[(seat.joined - seat.context) % BLOCK] -= 1
            self.free += _blocks(seat.context + self._iteration - seat.joined)
        else:
            self._prefilling.remove(seat)
            self.free += seat.blocks
        self.running -= 1

    def _spent(self, seat: Seat) -> float:
        decoding = self._decoded - seat.share if seat.context else 0.0
        return seat.job.accelerator + seat.seconds + decoding

    # Iterations.

    def _interrupt(self) -> None:
        """Somebody came: they may be let in after the iteration under way."""
        if self._lump is None:
            self._step()
        elif self._lump.iterations > 1 and self.running < self.slots:
            self._catch_up()

    def _catch_up(self) -> None:
        """Book the iterations that are over, and decide anew after the one under way."""
        lump, now = self._lump, self.timeline.now
        if lump is None or lump.iterations == 1:
            return
        done = min(int((now - lump.began) / lump.seconds), lump.iterations - 1)
        self._account(lump, done)
        self._lump = rest = Lump(lump.began + done * lump.seconds, lump.seconds, 1, [], 0.0)
        self.timeline.at(max(now, rest.ends), self._ended, rest)

    def _step(self) -> None:
        """Begin the next iterations, if there is anything to do."""
        self._let_in()
        self._make_room()
        decoding = len(self._decoding)
        budget = max(self._chunk - decoding, 1)
        chunks: list[tuple[Seat, int]] = []
        overhead = 0.0
        for seat in self._prefilling:
            tokens = min(seat.left, budget)
            chunks.append((seat, tokens))
            budget -= tokens
            if not seat.begun:
                seat.begun = True
                overhead += self.main.overhead_s
            if not budget:
                break
        if not decoding and not chunks:
            return
        service, now = self.main, self.timeline.now
        prompts = overhead + service.prompt_s * sum(tokens for _, tokens in chunks)
        seconds = service.decode_s + service.decode_batch_s * decoding + prompts
        share = prompts / seconds if decoding else 1.0
        alike = 1 if chunks else self._alike()
        seconds *= self.slow.factor(now) * self.slowed
        self._lump = lump = Lump(now, seconds, alike, chunks, share)
        self.timeline.at(lump.ends, self._ended, lump)

    def _alike(self) -> int:
        """How many iterations until somebody is through or a block is missing."""
        finishes = self._finishes
        while self._decoding.get(finishes[0][2].job) is not finishes[0][2]:
            heapq.heappop(finishes)
        through = finishes[0][0] - self._iteration
        count, free = 1, self.free - self._phases[self._iteration % BLOCK]
        while count < through:
            free -= self._phases[(self._iteration + count) % BLOCK]
            if free < 0:
                break
            count += 1
        return count

    def _ended(self, lump: Lump) -> None:
        """The iterations are over."""
        if self._lump is not lump:
            return
        self._lump = None
        self._account(lump, lump.iterations)
        self._hand_over(lump)
        self._step()
        if self.changed is not None:
            self.changed(self)

    def _account(self, lump: Lump, iterations: int) -> None:
        """Every decoding job has as many tokens more. Prompts pay for what they add (for all, when nobody decodes), a
        decoding job for one slot of the rest: a busy accelerator is divisible, as in `queueing`."""
        for step in range(self._iteration, self._iteration + iterations):
            self.free -= self._phases[step % BLOCK]
        self._iteration += iterations
        spent = iterations * lump.seconds
        self.busy_s += spent
        tokens = sum(count for _, count in lump.chunks)
        for seat, count in lump.chunks:
            seat.seconds += spent * lump.share * count / tokens
        if self._decoding:
            self._decoded += spent * (1.0 - lump.share) / self.main.slots

    def _hand_over(self, lump: Lump) -> None:
        """Whoever is through leaves; whoever's prompt is computed has one more token and decodes."""
        while self._finishes and self._finishes[0][0] <= self._iteration:
            seat = heapq.heappop(self._finishes)[2]
            if self._decoding.get(seat.job) is seat:
                self._answer(seat)
        for seat, tokens in lump.chunks:
            if self._seats.get(seat.job) is seat:
                seat.left -= tokens
                if not seat.left:
                    self._begin_decoding(seat)

    def _begin_decoding(self, seat: Seat) -> None:
        job = seat.job
        job.generated += 1
        if not job.first:
            job.first = self.timeline.now
            if job.call.output > 1 and job.call.stream:
                self.tell(job, job.edge.began)
        if job.generated >= job.call.output:
            self._answer(seat)
            return
        self._prefilling.remove(seat)
        job.stage = DECODING
        seat.context = job.prompt + job.generated
        seat.joined = self._iteration
        seat.share = self._decoded
        self.free += seat.blocks - _blocks(seat.context)
        self._decoding[job] = seat
        self._phases[(seat.joined - seat.context) % BLOCK] += 1
        through = self._iteration + job.call.output - job.generated
        heapq.heappush(self._finishes, (through, seat.order, seat))

    def _answer(self, seat: Seat) -> None:
        """The last token is there."""
        job = seat.job
        self._stand_up(seat)
        job.generated = job.call.output
        self._book(job, self._spent(seat))
        self.tell(job, job.edge.done)

    # Slots and blocks.

    def _let_in(self) -> None:
        while self.waiting and self.running < self.slots:
            job = self.line.take()
            if job.stage != WAITING:
                continue
            now = self.timeline.now
            tokens = job.prompt + job.generated
            if self._edf and not job.first and now + job.service.prefill(tokens) + job.way.mean > job.due:
                self._leave_line(job)
                self.refuse(job, Reason.DEADLINE_EXCEEDED)
                continue
            blocks = _blocks(tokens + 1)
            if blocks > self.free:
                if not self._seats:  # it would wait for ever
                    self._leave_line(job)
                    self.refuse(job, Reason.REFUSED)
                    continue
                self.line.put_back(job)
                return
            self._leave_line(job)
            self.free -= blocks
            self._order += 1
            seat = Seat(job, self._order, blocks)
            self._seats[job] = seat
            self._prefilling.append(seat)
            self.running += 1
            job.stage = PREFILLING
            if not job.started:
                job.started = now
                job.queue = now - job.arrived

    def _make_room(self) -> None:
        """Preempt until every decoding job finds a block for its next token."""
        while self._decoding and self._phases[self._iteration % BLOCK] > self.free:
            seat = max(self._seats.values(), key=lambda seat: seat.order)
            job = seat.job
            if len(self._seats) == 1:  # alone, and larger than the whole memory: an engine cuts it off
                job.call.output = self._tokens(seat)
                self._answer(seat)
                return
            if seat.context:
                job.generated = self._tokens(seat)
            job.accelerator = self._spent(seat)
            self._stand_up(seat)
            job.stage = WAITING
            self.waiting += 1
            self.queued_tokens += job.prompt + job.generated
            self.line.put_back(job)
            self.preempted += 1

    def _tokens(self, seat: Seat) -> int:
        """Tokens a decoding job has made."""
        return seat.context - seat.job.prompt + self._iteration - seat.joined

    # What it knows of itself.

    def memory_used(self) -> float:
        return 1.0 - self.free / self.blocks

    def wait(self, now: float) -> float:
        need = self.running + self.waiting + 1 - self.slots
        prefill = self._prefill_wait()
        if need <= 0 and self._fits():
            return prefill
        ends = sorted(through for through, _, seat in self._finishes if self._decoding.get(seat.job) is seat)
        if not ends:
            return prefill
        need = max(need, 1)
        lump = self._lump
        past = int((now - lump.began) / lump.seconds) if lump is not None else 0
        last = max(0, ends[min(need, len(ends)) - 1] - self._iteration - past)
        rounds = max(0, need - len(ends)) * self.main.full_share(self.mean_output)
        return max(prefill, last * self._pace() + rounds)

    def backlog(self, now: float) -> float:
        need = self.running + self.waiting + 1 - self.slots
        prefill = self._prefill_wait()
        if need <= 0 and self._fits():
            return prefill
        typical = self.mean_output * self._pace() / max(1, len(self._decoding))
        return max(prefill, max(need, 1) * typical)

    def _fits(self) -> bool:
        """Whether there is memory for one more like those waiting."""
        waiting = self.queued_tokens + max(1.0, self.queued_tokens / max(1, self.waiting))
        return _blocks(int(waiting)) <= self.free

    def _pace(self) -> float:
        """Seconds of an iteration that only decodes."""
        service = self.main
        seconds = service.decode_s + service.decode_batch_s * len(self._decoding)
        return seconds * self.slow.factor(self.timeline.now) * self.slowed

    def _prefill_wait(self) -> float:
        """Until all prompts that are here have been computed."""
        tokens = self.queued_tokens + sum(seat.left for seat in self._prefilling)
        if not tokens:
            return 0.0
        service = self.main
        budget = max(1, self._chunk - len(self._decoding))
        work = tokens * service.prompt_s * self.slow.factor(self.timeline.now) * self.slowed
        return math.ceil(tokens / budget) * self._pace() + work


class Lump:
    """Iterations that are all alike."""

    __slots__ = ("began", "chunks", "ends", "iterations", "seconds", "share")

    def __init__(
        self, began: float, seconds: float, iterations: int, chunks: list[tuple[Seat, int]], share: float
    ) -> None:
        self.began = began
        self.seconds = seconds
        """Of each."""
        self.iterations = iterations
        self.ends = began + seconds * iterations
        self.chunks = chunks
        """Whose prompts they work on, and how many tokens of each."""
        self.share = share
        """Of the seconds, what the prompts are charged."""


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
