"""What a run comes to, in figures: the structs between ledger, statistics, JSON, tables and the HTML report."""

from __future__ import annotations

import msgspec

Value = float | str | int | bool
"""Of what a scenario varies."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One policy in one run, over all requests offered after the warm-up. Rejected and lost requests are misses."""

    attainment: float
    """Share of offered requests whose every deadline was met."""
    cost_per_1k: float
    """US dollars of all accelerator time spent (wasted work included, each node in its cost mode) and egress, per
    1,000 requests in deadline."""
    fleet_cost_per_1k: float
    """The fleet-hour bill (price of every node for all of its time) per 1,000 requests in deadline."""
    miss_rate_accepted: float
    """Of the requests accepted as feasible: share that missed."""
    accepted_share: float
    """Share of offered requests accepted as feasible."""
    p50_s: float
    """Of the time to first token, answered requests."""
    p99_s: float
    herd_index: float
    """Most that arrived at one node within one age window over what it can serve in it."""
    jain: float
    """Jain's index of attainment: over tenants, each as a share of its fair part (ledger.py), or over regions when
    there is one tenant. 1 is even."""
    rejected: float
    """Share of offered requests refused."""
    decision_us: float
    """Mean CPU time of one `route`."""


class Bin(msgspec.Struct, frozen=True):
    """Requests whose predicted probability fell into one bin."""

    predicted: float
    observed: float
    requests: int


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """What the report draws."""

    offered: int
    answered: int
    by_class: dict[str, float]
    """Attainment by deadline class."""
    by_region: dict[str, float]
    """Attainment by the region of the client."""
    by_tenant: dict[str, float]
    flows: dict[str, dict[str, int]]
    """Requests answered: client region -> worker region -> count."""
    reliability: tuple[Bin, ...]
    """Predicted probability of meeting the deadline against how often it was met (dispatched requests)."""
    brier: float
    ece: float
    """Expected calibration error."""
    queue_times: tuple[float, ...]
    """Instants at which `queues` was sampled."""
    queues: dict[str, tuple[float, ...]]
    """Requests waiting in workers, by region."""
    utilisation: dict[str, float]
    """Share of its time each accelerator kind was busy: prefilling (`queueing`), or with anything (`batching`)."""
    energy_j_per_request: float
    co2_g_per_request: float
    mean_quality: float
    degraded: float
    retries: int
    hedges: int
    messages_per_request: float
    """Heartbeats, probes and reports a gateway took, per request."""
    total_p50_s: float
    total_p99_s: float
    recovery_s: float | None
    """After the last fault began: seconds until attainment over 1 s was back at 95 % of what it was before."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    scenario: str
    case: dict[str, Value]
    """What of the scenario was varied."""
    policy: str
    seed: int
    figures: Figures
    detail: Detail
    requests: int
    """Simulated, warm-up included."""
    cpu_s: float
    """CPU seconds of the process that ran it."""


class Interval(msgspec.Struct, frozen=True):
    """Mean over seeds and half the width of its 95 % interval."""

    mean: float
    half: float | None
    """None where one seed, or an infinite figure, has none."""
