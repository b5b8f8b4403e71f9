"""One endpoint of one worker, as this gateway sees it: what a request would take and cost there.

What the worker's endpoints share (load, health, distance) is worker.py's; what is learned of this one, its speed, the
pace of its decoding and what its accelerator charges, is here. The columns show both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from policies import cost
from policies.estimate import CHARGE_CLIP, Speed
from policies.records import Endpoint
from policies.request import Dispatch, Eta, Outcome, Request
from policies.worker import FADE_EVERY, WorkerState, faded

if TYPE_CHECKING:
    from policies.columns import Columns

TYPICAL_TOKENS = 64
"""Prompt tokens assumed of text until requests come, whose mean replaces it; only the scale matters."""
SETTLED_SAMPLES = 50
LEARN_EVERY = 0.01
"""Seconds between two answers that are learned from, after so many: what the last ten or so say shall span a tenth
of a second at least, or a busy node would be judged by an instant, and each of its requests pay for that."""
WORTH_SHOWING = 0.005
"""Relative change of what is learned below which the columns stay as they are: a tenth of a price tier."""


class Node:
    """One endpoint of one worker, as this gateway sees it. `slot` is its place in its model's columns."""

    __slots__ = (
        "_shown",
        "charge",
        "columns",
        "counted",
        "counted_draining",
        "endpoint",
        "extra",
        "id",
        "learned_at",
        "pace",
        "rates",
        "region",
        "slot",
        "speed",
        "state",
        "typical_work",
        "worker",
        "worth",
    )

    def __init__(self, state: WorkerState, endpoint: Endpoint) -> None:
        self.state = state
        self.speed = Speed()
        """Of prefill, or of all compute where there are no tokens."""
        self.pace = Speed()
        """Of decoding."""
        self.charge = Speed(CHARGE_CLIP)
        """Accelerator seconds over what `cost.accelerator_seconds` expects, learned like the speed."""
        self.worth = cost.LEAST_WORTH
        """Of a reserved second, as a share of its price."""
        self.extra = 0.0
        """US dollars per accelerator second beside the price: energy and carbon, where its route counts them."""
        self.columns: Columns | None = None
        self.slot = -1
        self.counted = False
        """Whether its columns count it as in service."""
        self.counted_draining = False
        self.learned_at = -math.inf
        """When the last answer was learned from, or what was learned last faded."""
        self._shown = self._learned()
        """As the columns show it."""
        self.describe(endpoint)

    def describe(self, endpoint: Endpoint) -> None:
        """Take a new description of the endpoint; what was learned about it stays."""
        self.endpoint = endpoint
        self.worker = worker = self.state.record
        self.region = worker.region
        self.id = f"{worker.id}/{endpoint.model}:{endpoint.variant}"
        curve = endpoint.curve
        self.typical_work = curve.seconds(TYPICAL_TOKENS) if curve.decode else self.share(curve.base)
        self.price()

    def price(self) -> None:
        self.rates = cost.rates(self.state.record, self.endpoint, self.charged(), worth=self.worth, extra=self.extra)

    def charged(self) -> tuple[float, float]:
        """Accelerator seconds over what `cost.accelerator_seconds` expects, of prefill and of decoding. Of an engine
        that reports none, as long as they take: it is billed by the clock."""
        if self.charge.samples:
            return self.charge.factor, self.charge.factor
        return self.speed.factor, self.pace.factor

    def accepts(self, now: float) -> bool:
        return self.state.accepts(now)

    def seconds(self, request: Request, output_tokens: float | None = None) -> float:
        """Compute seconds by the service curve alone, with the expected or the given output."""
        tokens = request.output_tokens if output_tokens is None else output_tokens
        return self.endpoint.curve.seconds(request.prompt_tokens, tokens, request.items)

    def work(self, eta: Eta) -> float:
        """Seconds for which a request keeps the next one waiting there: its prefill where that is serial, else its
        share of the slots or its place in a batch."""
        if self.state.serial:
            return eta.prefill
        return self.share(eta.prefill + eta.decode)

    def share(self, seconds: float) -> float:
        """Seconds that so much compute keeps others waiting: its share of the slots, or its place in a batch."""
        endpoint = self.endpoint
        shared, item = seconds / endpoint.max_batch, endpoint.curve.item
        return shared if shared > item else item

    def network(self) -> float:
        return self.state.rtt.mean + self.state.overhead.mean

    def token_seconds(self) -> float:
        """Seconds per output token beside what runs there now."""
        curve = self.endpoint.curve
        return (curve.decode + curve.decode_batch * self.state.running) * self.pace.factor

    def eta(self, request: Request, now: float) -> Eta:
        """Mean and spread of the time a request sent now would take."""
        speed, state, curve, tokens = self.speed, self.state, self.endpoint.curve, request.output_tokens
        prefill = curve.seconds(request.prompt_tokens, 0.0, request.items) * speed.factor
        decode = 0.0
        wait = 0.0 if state.relaxed(now) else state.wait(now)
        first = state.doubt(wait, state.unheard(now)) + speed.error * prefill
        whole = first
        if tokens and curve.decode:
            pace = self.token_seconds()
            decode = pace * tokens
            whole += self.pace.error * decode + pace * request.output_deviation
        return Eta(state.rtt.mean + state.overhead.mean, wait, prefill, decode, whole, first)

    def cost(self, request: Request) -> float:
        """Expected US dollars for a request."""
        r = self.rates
        tokens = r.prompt * request.prompt_tokens + r.output * request.output_tokens
        return r.request + tokens + r.item * (request.items - 1) + r.byte * request.reply_bytes

    def learn(self, dispatch: Dispatch, outcome: Outcome) -> bool:
        """Correct network, speed, pace and charge from what the worker and our own clock reported of an answer.

        Whether that moved them enough to be shown in the columns.
        """
        if self.speed.samples >= SETTLED_SAMPLES and 0.0 < dispatch.at - self.learned_at < LEARN_EVERY:
            return False
        self.learned_at = dispatch.at
        request, state, curve = dispatch.request, self.state, self.endpoint.curve
        prefill, decode, first_byte = outcome.prefill, outcome.decode or 0.0, outcome.first_byte
        tokens = request.output_tokens if outcome.output_tokens is None else outcome.output_tokens
        expected = curve.seconds(request.prompt_tokens, 0.0, request.items)
        per_token = curve.decode + curve.decode_batch * state.running
        if prefill is not None and first_byte is not None:
            inside = (outcome.queue or 0.0) + (prefill if request.stream else prefill + decode)
            state.overhead.observe(first_byte - inside - state.rtt.mean)
            state.learned_at = dispatch.at
        elif outcome.total is not None and not outcome.held_up and state.wait(dispatch.at) == 0.0:
            whole = expected + per_token * tokens
            share = expected / whole if whole > 0.0 else 1.0
            compute = outcome.total - dispatch.eta.network
            prefill, decode = compute * share, compute * (1.0 - share)
        else:
            return False
        if expected > 0.0:
            self.speed.observe(prefill / expected)
        if per_token > 0.0 and tokens > 1.0:
            self.pace.observe(decode / (per_token * (tokens - 1.0)))  # the first token comes with the prefill
        if outcome.accelerator is not None:
            charged = cost.accelerator_seconds(self.endpoint, request.prompt_tokens, tokens, request.items)
            if charged > 0.0:
                self.charge.observe(outcome.accelerator / charged)
        return self._moved()

    def _learned(self) -> tuple[float, ...]:
        speed, pace = self.speed, self.pace
        return speed.factor, pace.factor, self.charge.factor, speed.error, pace.error

    def _moved(self) -> bool:
        """Show what was learned, if it has moved enough; say whether."""
        speed, pace = self.speed, self.pace
        speed_shown, pace_shown, charge_shown, speed_error, pace_error = self._shown
        if (
            abs(speed.factor - speed_shown) <= WORTH_SHOWING * speed_shown
            and abs(pace.factor - pace_shown) <= WORTH_SHOWING * pace_shown
            and abs(self.charge.factor - charge_shown) <= WORTH_SHOWING * charge_shown
            and abs(speed.error - speed_error) <= WORTH_SHOWING
            and abs(pace.error - pace_error) <= WORTH_SHOWING
        ):
            return False
        self._show()
        return True

    def fade(self, now: float) -> None:
        """As `WorkerState.fade`, for what was learned of this endpoint."""
        idle = now - self.learned_at
        if self.speed.samples and idle >= FADE_EVERY:
            self.learned_at = now
            for learned in (self.speed, self.pace, self.charge):
                learned.fade(faded(idle))
            self._show()

    def _show(self) -> None:
        """Make what is learned what the columns show."""
        self._shown = self._learned()
        self.price()
        if self.columns is not None:
            self.columns.describe(self)

    def __repr__(self) -> str:
        return f"<Node {self.id} in {self.region}>"
