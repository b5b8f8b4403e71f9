"""What every simulated worker has in common: what it registers, reports and refuses, what goes wrong with it, what it
is paid.

`queueing.py` and `batching.py` say how it works off what it has taken. A worker talks to edges only through messages
that take their time on the way; `Job` is one attempt at a request, as its edge and its worker know it.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from loadtests.simulator.timeline import Act, Timeline
from loadtests.simulator.wan import Way
from loadtests.simulator.world import CostMode, Nodes, Place, Profile, Serving
from policies.reason import Reason
from policies.records import Curve, Endpoint, Load, MarginalPrice, Price, TokenPrice
from policies.records import Worker as Record

if TYPE_CHECKING:
    from loadtests.simulator.contender import Contender
    from loadtests.simulator.edge import Call, Edge
    from policies.request import Dispatch

TEXT_BYTES_PER_TOKEN = 4.0
EVENT_BYTES = 220.0
ENVELOPE_BYTES = 600.0
"""Sizes of answers, as the gateway assumes them (gateway/routes.py)."""
BLOCK_TOKENS = 512
"""Tokens of one prefix block: Mooncake's traces hash so many at a time."""
BLACK_HOLE_S = 0.001
"""How soon a broken node fails a request."""
SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MTOK = 1e6
BYTES_PER_GB = 1e9
JOULES_PER_KWH = 3.6e6

ON_THE_WAY, WAITING, PREFILLING, DECODING, OVER = range(5)
"""Where a job is, as its worker knows."""


class Job:
    """One attempt at one worker. Instants are the timeline's; the worker's fields say what it did and when."""

    __slots__ = (
        "accelerator", "arrived", "call", "contender", "decode", "dispatch", "due", "edge", "ends", "first",
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


class Service:
    """A profile, ready for use."""

    __slots__ = ("decode_batch_s", "decode_s", "interference", "overhead_s", "profile", "prompt_s", "slots")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.overhead_s = profile.overhead_s
        self.prompt_s = 1.0 / profile.prefill_tokens_per_s
        self.decode_s, self.decode_batch_s = profile.decode_s, profile.decode_batch_s
        self.slots = profile.slots
        self.interference = profile.interference

    def prefill(self, prompt: float) -> float:
        """Seconds until the first token on a node that has nothing else to do."""
        return self.overhead_s + prompt * self.prompt_s

    def full_share(self, output: float) -> float:
        """Seconds of the node that the decoding of so many tokens takes when all slots are busy."""
        return output * (self.decode_s + self.decode_batch_s * self.slots) / self.slots

    def endpoint(self) -> Endpoint:
        """As it is registered. The curve's decode is the time per token at batch 1 (records.Curve)."""
        profile = self.profile
        curve = Curve(self.overhead_s, prefill=self.prompt_s, decode=self.decode_s + self.decode_batch_s)
        return Endpoint(
            model=profile.model, variant=profile.variant, quality=profile.quality, curve=curve, max_batch=self.slots
        )


class SlowPeriods:
    """Random stretches in which everything takes longer. They depend on the node and the seed, not on the policy."""

    __slots__ = ("_factor", "_means", "_rng", "_slow", "_until")

    def __init__(self, serving: Serving, rng: random.Random) -> None:
        share = rng.uniform(*serving.slow_share)
        self._rng = rng
        self._factor = serving.slow_factor
        self._slow = rng.random() < share
        self._means = (serving.slow_s * (1.0 - share) / share if share else math.inf, serving.slow_s)
        """Of the stretches in between, and of the slow ones."""
        always = share in (0.0, 1.0) or serving.slow_factor == 1.0
        self._until = math.inf if always else self._length()

    def _length(self) -> float:
        return self._rng.expovariate(1.0 / self._means[self._slow])

    def factor(self, now: float) -> float:
        while now >= self._until:
            self._slow = not self._slow
            self._until += self._length()
        return self._factor if self._slow else 1.0


class Prefixes:
    """Which beginnings of prompts a worker has in its memory: the blocks used last."""

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, tokens: int) -> None:
        self._capacity = max(1, tokens // BLOCK_TOKENS)
        self._blocks: dict[int, None] = {}

    def use(self, prefix: tuple[int, ...]) -> int:
        """Tokens of it that are there; afterwards all of it is."""
        blocks, hits = self._blocks, 0
        for block in prefix:
            if block not in blocks:
                break
            hits += 1
        for block in reversed(prefix):  # a beginning outlives what follows it
            blocks.pop(block, None)
            blocks[block] = None
        while len(blocks) > self._capacity:
            del blocks[next(iter(blocks))]
        return hits * BLOCK_TOKENS

    def forget(self) -> None:
        self._blocks.clear()


class Herd:
    """Work that arrived at one node within one window, over what the node can do in a window; the worst so far.

    Windows are as long as the information of those who send is old (the heartbeat, one second at least) and follow
    each other: in one window nobody can see what all others send. In seconds of work, not requests, so that sizes
    count; the larger of prefill work and decode work over all slots, because either may be what a node lacks. 1 is
    exactly what it can do; a policy that spreads perfectly stays near its load.
    """

    __slots__ = ("_decode", "_from", "_prefill", "_width", "_window", "worst")

    def __init__(self, width: float, start: float) -> None:
        self._width = width
        self._from = math.ceil(start / width)
        """The first window that counts."""
        self._window = 0
        self._prefill = self._decode = 0.0
        self.worst = 0.0

    def arrived(self, now: float, prefill: float, decode: float) -> None:
        window = int(now / self._width)
        if window != self._window:
            self._window, self._prefill, self._decode = window, 0.0, 0.0
        self._prefill += prefill
        self._decode += decode
        index = max(self._prefill, self._decode) / self._width
        if index > self.worst and window >= self._from:
            self.worst = index


class Worker:
    """A node of the world. Subclasses take jobs (`take`), let go of them (`drop`) and know their `wait`."""

    running = 0
    """Jobs prefilling and decoding."""
    waiting = 0

    def __init__(
        self, timeline: Timeline, worker_id: str, nodes: Nodes, profiles: list[Profile], place: Place, serving: Serving,
        herd: Herd, rng: random.Random,
    ) -> None:  # fmt: skip
        self.timeline = timeline
        self.id = worker_id
        self.nodes = nodes
        self.region = nodes.region
        self.place = place
        self.serving = serving
        self.accelerator = profiles[0].accelerator
        services = [Service(profile) for profile in profiles]
        self.services = {(service.profile.model, service.profile.variant): service for service in services}
        self.main = services[0]
        self.slots = max(service.slots for service in services)
        self.mean_output = 0.0
        """Tokens it takes an answer to have (what an engine learns of its own traffic)."""
        self.herd = herd
        self.slow = SlowPeriods(serving, rng)
        self.prefixes = Prefixes(profiles[0].kv_tokens)
        self.usd_per_hour = nodes.usd_per_hour
        self.prefill_s = 0.0
        """Seconds it has spent prefilling."""
        self.reports = False
        """Whether its messages carry load reports."""
        self.boots = 0
        self._written = 0
        self._beats = 0
        # What is wrong with it; `disturbed` while anything is, so that the ordinary case is one test.
        self.up = False
        self.draining = self.black_hole = self.silent = self.lying = self.disturbed = False
        self.slowed = 1.0
        self._unanswered: list[Job] = []
        """What was accepted and will never be answered."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.running} running, {self.waiting} waiting>"

    # What it says of itself.

    def record(self) -> Record:
        """Its static record, newly written."""
        self._written += 1
        return Record(
            id=self.id, boot=f"b{self.boots}", seq=self._written, address="127.0.0.1:9", region=self.region,
            cloud=self.nodes.cloud, accelerator=self.accelerator, power_watts=self.main.profile.power_watts,
            price=self._price(), egress_usd_per_gb=self.place.egress_usd_per_gb, engine="simulated",
            endpoints=tuple(service.endpoint() for service in self.services.values()),
        )  # fmt: skip

    def _price(self) -> Price:
        """As the router is to count it: capacity that is paid for anyway costs nothing more to use."""
        nodes = self.nodes
        if nodes.cost is CostMode.TOKEN:
            return TokenPrice(nodes.input_usd_per_mtok, nodes.output_usd_per_mtok)
        return MarginalPrice(0.0 if nodes.cost is CostMode.RESERVED else self.usd_per_hour)

    def load(self) -> Load:
        """Its load record of this moment."""
        self._beats += 1
        idle = self.lying or self.black_hole
        return Load(
            worker=self.id, boot=f"b{self.boots}", seq=self._beats,
            waiting=0 if idle else self.waiting, running=0 if idle else self.running + len(self._unanswered),
            backlog=0.0 if idle else self.backlog(self.timeline.now), draining=self.draining,
        )  # fmt: skip

    def service(self, prompt: float, output: float) -> float:
        """Seconds a request of this size would take here if it were alone."""
        main = self.main
        return main.prefill(prompt) + output * (main.decode_s + main.decode_batch_s)

    def wait(self, now: float) -> float:
        """Seconds until a request arriving now would start: the truth, as far as it can be known."""
        raise NotImplementedError

    def backlog(self, now: float) -> float:
        """The same as an engine can estimate it, which does not know how long the answers will be."""
        raise NotImplementedError

    # What others ask of it.

    def arrive(self, job: Job) -> None:
        """A request is here."""
        if self.disturbed and self._spoilt(job):
            return
        if self.waiting >= self.serving.max_queue:
            self.refuse(job, Reason.REFUSED)
            return
        now = self.timeline.now
        job.arrived = now
        job.stage = WAITING
        service = job.service
        if job.call.prefix:
            job.prompt = max(1, job.prompt - self.prefixes.use(job.call.prefix))
        self.herd.arrived(now, service.prefill(job.prompt), service.full_share(job.call.output))
        self.take(job)

    def cancel(self, job: Job) -> None:
        """Nobody wants the answer any more."""
        if job.stage in (WAITING, PREFILLING, DECODING):
            self.drop(job)

    def take(self, job: Job) -> None:
        raise NotImplementedError

    def drop(self, job: Job) -> None:
        """Let go of a job that is here, and charge what was spent on it."""
        raise NotImplementedError

    def jobs(self) -> list[Job]:
        """All that is here, waiting or at work."""
        raise NotImplementedError

    # What it answers.

    def refuse(self, job: Job, reason: Reason) -> None:
        """Say that nothing was executed."""
        job.stage = OVER
        job.reason = reason
        self.tell(job, job.edge.refused)

    def tell(self, job: Job, act: Act) -> None:
        """Send a message to the job's edge."""
        if self.reports:
            job.report = self.load()
        way = job.way
        if not way.cut:
            self.timeline.at(self.timeline.now + way.draw(), act, job)

    def charge(self, job: Job, prefill: float, decode: float) -> None:
        """Book what the accelerator spent on a job that is over. A busy accelerator is divisible: a decoding job has
        one slot of it."""
        service, call = job.service, job.call
        job.stage = OVER
        job.prefill, job.decode = prefill, decode
        job.accelerator = accelerator = prefill + decode / service.slots
        self.prefill_s += prefill
        nodes = self.nodes
        if nodes.cost is CostMode.MARGINAL:
            call.usd += accelerator * self.usd_per_hour / SECONDS_PER_HOUR
        elif nodes.cost is CostMode.TOKEN:
            tokens = nodes.input_usd_per_mtok * call.prompt + nodes.output_usd_per_mtok * job.generated
            call.usd += tokens / TOKENS_PER_MTOK
        if self.place.egress_usd_per_gb and job.generated:
            call.usd += reply_bytes(job.generated, call.stream) * self.place.egress_usd_per_gb / BYTES_PER_GB
        joules = accelerator * (service.profile.power_watts - service.profile.idle_watts)
        call.joules += joules
        call.grams += joules / JOULES_PER_KWH * self.place.carbon_g_per_kwh

    # What goes wrong (faults.py).

    def start(self) -> None:
        """The process begins: a new boot, with nothing in it."""
        self.up = True
        self.boots += 1
        self._beats = 0
        self.prefixes.forget()
        self.judge()

    def crash(self) -> None:
        """The process is gone, and with it all it had: connections break."""
        self.up = False
        lost = self.jobs() + self._unanswered
        self._unanswered.clear()
        for job in lost:
            if job.stage != OVER:
                self.drop(job)
            self.tell(job, job.edge.lost)
        self.judge()

    def judge(self) -> None:
        """Note whether anything is wrong at all."""
        self.disturbed = not self.up or self.draining or self.black_hole or self.silent

    def freeze(self) -> None:
        """Nothing that is here will be answered."""
        for job in self.jobs():
            self.drop(job)
            self._unanswered.append(job)

    def _spoilt(self, job: Job) -> bool:
        """Whether a disturbance decides what becomes of a new request."""
        if not self.up:
            job.stage = OVER
            job.reason = Reason.CONNECT_FAILED
            self.tell(job, job.edge.refused)
        elif self.draining:
            self.refuse(job, Reason.REFUSED)
        elif self.black_hole:
            job.stage = OVER
            self.timeline.at(self.timeline.now + BLACK_HOLE_S, self._fail, job)
        elif self.silent:
            job.stage = OVER
            self._unanswered.append(job)
        else:
            return False
        return True

    def _fail(self, job: Job) -> None:
        self.tell(job, job.edge.failed)


def reply_bytes(tokens: float, stream: bool) -> float:
    return ENVELOPE_BYTES + tokens * (EVENT_BYTES if stream else TEXT_BYTES_PER_TOKEN)
