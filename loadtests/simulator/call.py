"""A request and the attempts at it: what its edge and a worker know of it. Instants are the timeline's.

A `Call` is a row of the ledger; a `Job` is one dispatch of it, at one worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.simulator.wan import Way
from loadtests.workload import Class, Planned
from policies.reason import Reason
from policies.records import Load
from policies.request import INFINITE, Dispatch, Request, Status

if TYPE_CHECKING:
    from loadtests.simulator.contender import Contender
    from loadtests.simulator.edge import Edge
    from loadtests.simulator.serving import Worker

ON_THE_WAY, WAITING, PREFILLING, DECODING, OVER = range(5)
"""Where a job is, as its worker knows."""


class Call:
    """One request as it was planned, and what becomes of it: a row of the ledger."""

    __slots__ = (
        "attempts", "closed", "deadline", "due", "edge", "ended", "first", "first_deadline", "grams", "hedges",
        "held_until", "holder", "job", "joules", "kind", "met", "noise", "number", "origin", "output", "predicted",
        "predicted_met", "prefix", "prompt", "reason", "request", "status", "stream", "tenant", "tried", "usd",
        "variant_quality", "wakes_at", "worker",
    )  # fmt: skip

    def __init__(self, planned: Planned, noise: float, now: float) -> None:
        kind = planned.kind
        self.number = planned.number
        self.kind: Class = kind
        self.origin = planned.origin
        self.tenant = planned.tenant
        self.prompt = planned.prompt_tokens
        self.output = planned.output_tokens
        self.stream = planned.stream
        self.prefix = planned.prefix
        self.noise = noise
        """What its service time is multiplied with, wherever it is served."""
        self.first_deadline = INFINITE if kind.first_token_s is None else now + kind.first_token_s
        self.deadline = INFINITE if kind.total_s is None else now + kind.total_s
        self.due = min(self.first_deadline, self.deadline)
        """By when its first token is wanted; later than that, it may as well not be computed."""
        self.edge: Edge
        """The gateway it came to."""
        self.request: Request
        self.job: Job | None = None
        """The last attempt."""
        self.tried: list[str] = []
        """Workers that have been sent it."""
        self.attempts = 0
        self.hedges = 0
        """Those of them that were sent beside a silent one."""
        self.holder: Contender
        """Who holds it: a restart may have put another in its place since."""
        self.held_until = INFINITE
        self.wakes_at = INFINITE
        """When its edge looks whether it has been held long enough."""
        self.closed = False
        # What came of it.
        self.status: Status | None = None
        """The promise of its first dispatch; None if there was none."""
        self.predicted = -1.0
        """Probability of meeting every deadline, as its first dispatch implies it; -1 without one."""
        self.predicted_met = False
        """Whether that dispatch met them."""
        self.first: float | None = None
        """When its first token was at the gateway."""
        self.ended: float | None = None
        """When the client had its ending: the last token, or an error."""
        self.reason: Reason | None = None
        """Why it got no answer."""
        self.met = False
        self.worker: Worker | None = None
        """Who answered."""
        self.variant_quality = 0.0
        self.usd = self.joules = self.grams = 0.0
        """Spent on all its attempts."""

    @property
    def region(self) -> str:
        """Where its gateway is."""
        return self.edge.region

    def __repr__(self) -> str:
        return f"<Call {self.number} {self.kind.name}, {len(self.tried)} tried>"


class Job:
    """One attempt at one worker. Instants are the timeline's; the worker's fields say what it did and when."""

    __slots__ = (
        "accelerator", "arrived", "beside", "call", "contender", "decode", "dispatch", "due", "edge", "ends", "first",
        "first_byte", "generated", "limit", "prefill", "prompt", "queue", "reason", "report", "service", "settled",
        "stage", "stalled", "started", "way", "worker",
    )  # fmt: skip

    def __init__(self, edge: Edge, call: Call, dispatch: Dispatch, contender: Contender, worker: Worker) -> None:
        self.edge = edge
        self.call = call
        self.dispatch = dispatch
        self.contender = contender
        """Who decided, and so is to be told: a restart may have put another in its place since."""
        self.worker = worker
        self.way: Way = edge.ways[worker.region]
        endpoint = dispatch.node.endpoint
        self.service = worker.services[endpoint.model, endpoint.variant]
        self.due = call.due
        self.limit = 0.0
        """When the attempt must be over."""
        self.settled = False
        self.beside: Job | None = None
        """The other of a hedged pair, while both are under way."""
        self.first_byte: float | None = None
        """Seconds from the dispatch until the edge had it."""
        self.stalled = False
        """Whether its edge wonders where the rest of the answer is."""
        self.reason: Reason | None = None
        """Why the worker does not answer it."""
        self.report: Load | None = None
        """What the worker's last message says of its load."""
        self.stage = ON_THE_WAY
        self.prompt = call.prompt
        """Tokens that have to be computed: fewer where the beginning is cached."""
        self.generated = 0
        self.arrived = self.started = self.first = self.ends = 0.0
        self.queue = self.prefill = self.decode = self.accelerator = 0.0
        """Seconds spent so."""

    def __repr__(self) -> str:
        return f"<Job {self.call.number} attempt {self.dispatch.attempt} at {self.worker.id}, stage {self.stage}>"
