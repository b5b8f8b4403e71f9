"""What there is to simulate: regions, the round trips between them, nodes and their prices, gateways, load, faults.

Read from YAML into frozen structs by definitions.py; an unknown key or a bad value is refused with the path of the
field. A world says nothing about policies. Seconds, tokens and US dollars unless a name says otherwise.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from loadtests.arrivals import NotNegative, Origin, Positive
from loadtests.rows import FileError
from loadtests.sizes import Share
from loadtests.workload import Demand

Count = Annotated[int, Meta(ge=1)]


class WorldError(FileError):
    """A world that cannot be simulated: the text names the field and what is wrong with it."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a world."""


class Place(_Part, frozen=True, kw_only=True):
    """A region."""

    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    demand: NotNegative = 1.0
    """Its share of the requests, relative to the other regions with a gateway."""
    carbon_g_per_kwh: NotNegative = 0.0
    egress_usd_per_gb: NotNegative = 0.0


class RoundTrip(_Part, frozen=True, kw_only=True):
    """Measured round trips between two regions, both ways alike (`ping`'s summary)."""

    between: tuple[str, str]
    min_ms: NotNegative
    avg_ms: Positive
    mdev_ms: NotNegative = 0.0


class Wan(_Part, frozen=True, kw_only=True):
    """How a single delay departs from the table: a shifted lognormal per leg, and rare spikes (algorithm.md 5.1)."""

    spike_share: Share = 0.001
    spike_factor: Annotated[float, Meta(ge=1)] = 3.0


class Profile(_Part, frozen=True, kw_only=True):
    """How one kind of accelerator serves one variant of a model.

    Prefill of a request is serial work of `overhead_s + prompt / prefill_tokens_per_s`, slowed by
    `1 + interference * running / slots`; each output token then takes `decode_s + decode_batch_s * running`.
    """

    accelerator: str
    model: str = "llm"
    variant: str = "bf16"
    quality: Annotated[float, Meta(ge=0, le=2)] = 1.0
    prefill_tokens_per_s: Positive
    overhead_s: NotNegative = 0.0
    decode_s: NotNegative = 0.0
    decode_batch_s: NotNegative = 0.0
    slots: Count = 1
    interference: NotNegative = 0.0
    kv_tokens: Count = 1_000_000
    """Tokens its memory holds (iteration-level fidelity only)."""
    prefill_chunk: Count = 512
    """Prompt tokens of one iteration (iteration-level fidelity only)."""
    power_watts: NotNegative = 0.0
    idle_watts: NotNegative = 0.0


class CostMode(enum.Enum):
    """How a node's use is billed."""

    MARGINAL = "marginal"
    TOKEN = "token"  # noqa: S105 - a cost mode
    RESERVED = "reserved"


class Nodes(_Part, frozen=True, kw_only=True):
    """Equal workers in one region. Their ids are `{region}-{name}-{index}`."""

    name: str
    region: str
    profiles: Annotated[tuple[str, ...], Meta(min_length=1)]
    """What each serves: one endpoint per profile, all of one accelerator."""
    count: Count = 1
    usd_per_hour: NotNegative
    cost: CostMode = CostMode.MARGINAL
    input_usd_per_mtok: NotNegative = 0.0
    """With `cost: token`."""
    output_usd_per_mtok: NotNegative = 0.0
    cloud: str = ""
    from_s: NotNegative = 0.0
    """When they register: later ones are cold starts."""


class Control(_Part, frozen=True, kw_only=True):
    """The control plane between workers and gateways."""

    heartbeat_s: Positive = 1.0
    publish_delay_s: NotNegative = 0.005
    """From a worker's write to the registry's word to a gateway, beside the way between their regions."""
    nearby: bool = False
    """Whether the registry is beside everybody, as in an embedded fleet: its word takes no way between regions."""
    loss: Share = 0.0
    """Share of heartbeats that never arrive."""
    early: bool = False
    """Whether a worker also reports at once when its wait crosses a bucket edge (at most every 50 ms)."""
    on_responses: bool = True
    """Whether answers carry load reports (ORCA), as our workers' do and as the shipped gateway asks for and reads: with
    the head of an answer (a stream's first token) and at its end. Foreign engines without any are `false`."""
    lease_s: Positive = 3.0
    """At least three heartbeats are granted, whatever this says."""
    probe_s: Positive = 1.0
    """Between two round-trip probes of one node by one gateway."""
    on_probes: bool = True
    """Whether their answers carry load too, as our workers' do; foreign engines' do not."""


class Queue(enum.Enum):
    """In what order a worker takes what waits."""

    FIFO = "fifo"
    EDF = "edf"
    """Earliest deadline first, and what cannot make it any more is dropped unexecuted."""


class Fidelity(enum.Enum):
    QUEUEING = "queueing"
    """Serial prefill and decode slots in closed form: two events per request."""
    BATCHING = "batching"
    """Continuous batching, iteration by iteration, with KV blocks."""


class Serving(_Part, frozen=True, kw_only=True):
    """What all workers of a world have in common."""

    queue: Queue = Queue.FIFO
    fidelity: Fidelity = Fidelity.QUEUEING
    max_queue: Count = 10_000
    """Requests waiting beyond which a worker refuses, unexecuted."""
    noise: NotNegative = 0.1
    """Standard deviation of the logarithm of a service time around its model."""
    slow_factor: Annotated[float, Meta(ge=1)] = 1.0
    """In random slow periods everything takes this much longer."""
    slow_share: tuple[Share, Share] = (0.0, 0.0)
    """Share of its time a node is slow: drawn per node from this range."""
    slow_s: Positive = 2.0
    """Mean length of a slow period."""


class FaultKind(enum.Enum):
    """What may go wrong. Targets are region names or worker ids (shell-style patterns)."""

    OUTAGE = "outage"
    """Workers are gone: connections are refused, what they had is lost; at the end they come back empty."""
    PARTITION = "partition"
    """The way between two groups of regions is cut: nothing arrives, nobody is told."""
    REGISTRY = "registry"
    """Heartbeats of the target regions stop reaching anybody."""
    SLOW = "slow"
    """Service takes `factor` times as long."""
    BLACK_HOLE = "black_hole"
    """Requests fail after a millisecond, and the node looks idle."""
    SILENT = "silent"
    """Requests are accepted and never answered."""
    LYING = "lying"
    """The node reports an empty queue."""
    RECLAIM = "reclaim"
    """Spot capacity is taken back after 30 s of drain."""
    PRICE = "price"
    """The price per hour is `factor` times the world's."""
    RESTART = "restart"
    """The gateway of a region forgets everything it has learned."""


class Fault(_Part, frozen=True, kw_only=True):
    """One disturbance."""

    kind: FaultKind
    at: NotNegative
    lasts: Positive = 1e9
    target: Annotated[tuple[str, ...], Meta(min_length=1)]
    away_from: tuple[str, ...] = ()
    """The other side of a partition; empty means everybody else."""
    factor: Positive = 1.0


class World(_Part, frozen=True, kw_only=True):
    """Everything but the policy and the seed."""

    name: str
    about: str = ""
    """One sentence on what it shows."""
    regions: dict[str, Place]
    round_trips: tuple[RoundTrip, ...]
    wan: Wan = Wan()
    profiles: dict[str, Profile]
    nodes: Annotated[tuple[Nodes, ...], Meta(min_length=1)]
    gateways: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Regions with a gateway; one named twice has two."""
    serving: Serving = Serving()
    control: Control = Control()
    demand: Demand
    carbon_usd_per_tonne: NotNegative = 0.0
    """Of CO2 at full power; definitions.py adds it to what the nodes' hours cost, so every policy sees it."""
    load: Positive = 0.7
    """Offered rate as a share of load 1.0."""
    full_rate: Positive | None = None
    """Requests per second of load 1.0: the highest at which the fluid program serves 99 % in deadline (fluid.py).
    None computes it."""
    faults: tuple[Fault, ...] = ()
    seconds: Positive = 40.0
    """Length of a run, of which..."""
    warm_up: NotNegative = 10.0
    """...the requests of the first so many seconds are not counted."""

    def round_trip(self, a: str, b: str) -> RoundTrip:
        """The one between two regions, or inside one."""
        return next(trip for trip in self.round_trips if set(trip.between) == {a, b})

    def origins(self) -> dict[str, Origin]:
        """Where requests come from: the regions with a gateway. Clients of others use one of these."""
        return {
            name: Origin(self.regions[name].demand, self.regions[name].longitude)
            for name in dict.fromkeys(self.gateways)
        }
