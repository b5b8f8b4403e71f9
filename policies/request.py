"""The values that pass through the router: what is asked, what is decided, what came of it, what changed.

Everything here is immutable. Times named `deadline`, `arrived`, `now`, `at` are absolute seconds on one monotonic
clock (the caller's); every other time is a duration in seconds. Money is US dollars. The structs made for every
request are kept from the garbage collector (`gc=False`): they hold no cycles, and the ring keeps thousands of them.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import msgspec

from policies.reason import Reason

if TYPE_CHECKING:
    from policies.node import Node
    from policies.records import Load, Worker

INFINITE = math.inf


class Infeasible(enum.Enum):
    """What to do, in the order a policy lists them, when no node can meet the deadline."""

    DEGRADE = "degrade"
    HOLD = "hold"
    BEST_EFFORT = "best_effort"
    REJECT = "reject"


class Status(enum.Enum):
    """Under which promise a request was dispatched."""

    FEASIBLE = "feasible"
    """A node is predicted to meet every deadline (or the request has none)."""
    DEGRADED = "degraded"
    """The deadline is met by a variant below the quality asked for, yet at or above the floor."""
    BEST_EFFORT = "best_effort"
    """Nobody is predicted to make it; the fastest node got it."""

    __hash__ = object.__hash__  # an Enum hashes its name, in Python; these are counted for every request


class Selection(msgspec.Struct, frozen=True):
    """Which nodes a request may use at all: every constraint that depends on a node's record alone.

    Hashable, so that the fleet caches one mask of nodes per distinct selection. Empty tuples mean "any".
    """

    variants: tuple[str, ...] = ()
    """Variant names (`int8`, `bf16`, ...): OpenRouter's `provider.quantizations`."""
    regions: tuple[tuple[str, ...], ...] = ()
    """Groups of shell-style patterns; a node's region must match one pattern of every group."""
    only: tuple[str, ...] = ()
    """Worker ids, regions or clouds, one of which must be the node's."""
    ignore: tuple[str, ...] = ()
    """Worker ids, regions or clouds, none of which may be the node's."""
    max_input_usd_per_mtok: float = INFINITE
    max_output_usd_per_mtok: float = INFINITE
    grpc: bool = False
    """Whether only nodes reached over gRPC will do."""


ANY = Selection()


class Sort(enum.Enum):
    """OpenRouter's `provider.sort`: what to prefer instead of the route's balancer."""

    PRICE = "price"
    LATENCY = "latency"
    THROUGHPUT = "throughput"


class Request(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """One request as the router sees it: sizes, deadlines and constraints, no bytes of it."""

    id: str
    model: str
    policy: str
    """Name of the policy its route resolved to."""
    arrived: float
    """When its first byte came."""
    deadline: float = INFINITE
    """When its last byte must be out."""
    first_token_deadline: float = INFINITE
    token_interval: float = INFINITE
    """Seconds it grants per output token."""
    probability: float = 0.95
    """How surely the deadlines are to be met: one of 0.90, 0.95, 0.98, 0.99."""
    patience: float = 60.0
    """Longest predicted wait a request without any deadline is sent behind."""
    max_wait: float = INFINITE
    """Longest it may be held in this gateway's own queue."""
    prompt_tokens: float = 0.0
    """Estimated input size, in tokens (tensor models: 0)."""
    output_tokens: float = 0.0
    """Expected output size, in tokens (embeddings, tensors: 0)."""
    output_deviation: float = 0.0
    """Its standard deviation, where it is learned from earlier answers."""
    items: int = 1
    """Independent inputs in the body (embeddings, tensor batch)."""
    reply_bytes: float = 0.0
    """Expected answer size, for egress."""
    stream: bool = False
    quality: float = 0.0
    """Quality wanted, relative to the reference variant; degrading may go below it."""
    min_quality: float = 0.0
    """Quality floor: never below it."""
    max_cost: float = INFINITE
    """Most this request may cost, in US dollars."""
    selection: Selection = ANY
    order: tuple[str, ...] = ()
    """Worker ids, regions or clouds to try first, in this order (`provider.order`)."""
    allow_fallbacks: bool = True
    """Whether nodes outside `order` may be used, and whether a failed attempt may be repeated elsewhere."""
    sort: Sort | None = None
    when_infeasible: tuple[Infeasible, ...] = (Infeasible.DEGRADE, Infeasible.BEST_EFFORT)
    client_retries: int = 0
    """How often the client itself has sent it before: its retries and ours share one limit."""
    priority: str = "default"
    tenant: str = ""
    affinity: str = ""
    """Session or prefix key; empty when there is none."""

    @property
    def patient(self) -> bool:
        """Whether it has no deadline of any kind."""
        return self.deadline == self.first_token_deadline == self.token_interval == INFINITE

    @property
    def tries(self) -> bool:
        """Whether it would first be tried without a promise, not held or refused."""
        return self._resort not in (Infeasible.HOLD, Infeasible.REJECT)

    @property
    def holds(self) -> bool:
        """Whether it would first be held, not tried without a promise or refused."""
        return self._resort is Infeasible.HOLD

    @property
    def _resort(self) -> Infeasible | None:
        """What it wants first when nobody can make it with any quality it takes."""
        return next((step for step in self.when_infeasible if step is not Infeasible.DEGRADE), None)


class Eta(msgspec.Struct, gc=False, frozen=True):
    """A prediction for one request on one node: a mean, part by part, and one spread. Seconds."""

    network: float
    """Both legs between this gateway and the worker."""
    wait: float
    """Until the accelerator starts on it."""
    prefill: float
    """From start to first token; for a model without tokens, all of its compute."""
    decode: float
    """From first token to last; 0 without tokens."""
    spread: float
    """Standard deviation of the total."""
    first_spread: float = 0.0
    """Standard deviation of the time to first token."""

    @property
    def first_token(self) -> float:
        return self.network + self.wait + self.prefill

    @property
    def total(self) -> float:
        return self.network + self.wait + self.prefill + self.decode


class Dispatch(msgspec.Struct, gc=False, frozen=True, eq=False):
    """The decision to send a request to a node. Its share of the node is reserved until it is reported."""

    request: Request
    node: Node
    at: float
    """When it was decided."""
    attempt: int
    """1 for the first."""
    status: Status
    eta: Eta
    cost: float
    """Expected US dollars."""
    probes: tuple[str, ...] = ()
    """Ids of workers whose load to ask for at once."""
    hedge_at: float = INFINITE
    """When to ask for a hedge beside it, if it has been silent until then; infinite where the policy has none."""
    hedge: bool = False
    """Whether it is one: sent beside another that is silent yet, under the promise of that one."""


class Hold(msgspec.Struct, gc=False, frozen=True):
    """Nobody can take it now: route it again by `until` at the latest. A change of the fleet may free it sooner."""

    until: float


class Shed(msgspec.Struct, gc=False, frozen=True):
    """The decision to refuse a request."""

    reason: Reason
    detail: str = ""
    """For the client: what was asked, what there is, what to change. No addresses."""
    param: str | None = None
    """The header or body field the refusal is about."""
    retry_after: float | None = None
    """Seconds after which trying again may help."""


class Outcome(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """What came of one dispatch. Durations count from `Dispatch.at`; `None` where it was not observed."""

    reason: Reason | None = None
    """Why the attempt failed; `None` when the answer was complete."""
    executed: bool = True
    """False only if the worker surely did not start on it (never connected, or it said so)."""
    client_error: bool = False
    """The worker answered that the request itself is at fault (4xx): complete, but no work to learn from or bill."""
    first_byte: float | None = None
    """Until the first byte of the answer's body."""
    total: float | None = None
    queue: float | None = None
    """Worker-reported: time in its queue."""
    prefill: float | None = None
    """Worker-reported: compute until the first token, or all compute."""
    decode: float | None = None
    accelerator: float | None = None
    """Worker-reported accelerator seconds."""
    output_tokens: int | None = None
    reply_bytes: int = 0
    held_up: bool = False
    """The client did not read for a while, so the worker had to wait: `total` says nothing of its speed."""


def kept(dispatch: Dispatch, outcome: Outcome | None) -> bool:
    """Whether a request was answered in deadline: whole, its first token and its last in time (a unary answer's first
    token is its first byte, or its end). The pace is left out: it chooses the node, and is not promised per token."""
    if outcome is None or outcome.reason is not None or outcome.client_error or outcome.total is None:
        return False
    request, at = dispatch.request, dispatch.at
    first = outcome.total if outcome.first_byte is None else outcome.first_byte
    return at + outcome.total <= request.deadline and at + first <= request.first_token_deadline


class WorkerSeen(msgspec.Struct, frozen=True):
    """A worker appeared, or its static record changed."""

    worker: Worker


class WorkerGone(msgspec.Struct, frozen=True):
    """A worker's lease ended or its record was removed."""

    worker_id: str


class LoadSeen(msgspec.Struct, gc=False, frozen=True):
    """A load record arrived."""

    load: Load
    age: float
    """How old the figures were on arrival, by this side's estimate (no clocks are compared)."""
    newest: bool = False
    """Whether it is newer than all before it, though its sequence does not say so (a foreign engine has none)."""


class RoundTrip(msgspec.Struct, gc=False, frozen=True):
    """A probe of a worker came back after `seconds` (one network round trip; connect time not included)."""

    worker_id: str
    seconds: float


class ProbeFailed(msgspec.Struct, gc=False, frozen=True):
    """A probe of a worker did not come back."""

    worker_id: str


class DrainSet(msgspec.Struct, frozen=True):
    """An operator started (`on`) or ended a worker's drain."""

    worker_id: str
    on: bool


Change = WorkerSeen | WorkerGone | LoadSeen | RoundTrip | ProbeFailed | DrainSet
