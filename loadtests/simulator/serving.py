"""What every simulated worker has in common: what it registers, reports and refuses, what goes wrong with it, what it
is paid.

`queueing.py` and `batching.py` say how it works off what it has taken. A worker talks to edges only through messages
that take their time on the way.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from loadtests.simulator.call import DECODING, ON_THE_WAY, OVER, PREFILLING, WAITING, Job
from loadtests.simulator.machine import Herd, Line, Prefixes, Service, SlowPeriods
from loadtests.simulator.timeline import Act, Timeline
from loadtests.simulator.world import CostMode, Nodes, Place, Profile, Serving
from policies.cost import BYTES_PER_GB, JOULES_PER_KWH, SECONDS_PER_HOUR, TOKENS_PER_MTOK
from policies.reason import Reason
from policies.records import Load, MarginalPrice, Price, ReservedPrice, TokenPrice
from policies.records import Worker as Record

TEXT_BYTES_PER_TOKEN = 4.0
EVENT_BYTES = 220.0
ENVELOPE_BYTES = 600.0
"""Sizes of answers, as the gateway assumes them (gateway/routes.py)."""
BLACK_HOLE_S = 0.001
"""How soon a broken node fails a request."""


class Worker:
    """A node of the world. Subclasses take jobs (`take`), let go of them (`drop`) and know their `wait`."""

    running = 0
    """Jobs prefilling and decoding."""
    waiting = 0
    queued_tokens = 0
    """Prompt tokens that wait."""

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
        self.line = Line(serving.queue)
        self.slow = SlowPeriods(serving, rng)
        self.prefixes = Prefixes(profiles[0].kv_tokens)
        self.usd_per_hour = nodes.usd_per_hour
        self.busy_s = 0.0
        """Seconds it has spent prefilling (`queueing`), or doing anything (`batching`)."""
        self.changed: Callable[[Worker], None] | None = None
        """Told when its wait may have become another one; set where it reports early."""
        self.reports = False
        """Whether its messages carry load reports."""
        self.boots = 0
        self.arrivals = 0
        """Requests accepted since it booted."""
        self._written = 0
        self._beats = 0
        # What is wrong with it; `disturbed` while anything is, so that the ordinary case is one test.
        self.up = False
        self.barred = False
        """Whether a fault keeps it from running."""
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
        """As the router is to count it."""
        nodes = self.nodes
        if nodes.cost is CostMode.TOKEN:
            return TokenPrice(nodes.input_usd_per_mtok, nodes.output_usd_per_mtok)
        if nodes.cost is CostMode.RESERVED:
            return ReservedPrice(self.usd_per_hour)
        return MarginalPrice(self.usd_per_hour)

    def load(self) -> Load:
        """Its load record of this moment."""
        self._beats += 1
        idle = self.lying or self.black_hole
        return Load(
            worker=self.id, boot=f"b{self.boots}", seq=self._beats,
            waiting=0 if idle else self.waiting, running=0 if idle else self.running + len(self._unanswered),
            backlog=0.0 if idle else self.backlog(self.timeline.now),
            tokens_waiting=0 if idle else self.queued_tokens,
            kv_use=0.0 if idle else self.memory_used(), draining=self.draining,
            arrived=self.arrivals,
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

    def memory_used(self) -> float:
        """Share of its KV memory that is taken."""
        return self.running / self.slots

    # What others ask of it.

    def arrive(self, job: Job) -> None:
        """A request is here."""
        if job.stage != ON_THE_WAY:
            return  # called back before it came
        if self.disturbed and self._spoilt(job):
            return
        if self.waiting >= self.serving.max_queue:
            self.refuse(job, Reason.REFUSED)
            return
        now = self.timeline.now
        self.arrivals += 1
        job.arrived = now
        job.stage = WAITING
        service = job.service
        if job.call.prefix:
            job.prompt = max(1, job.prompt - self.prefixes.use(job.call.prefix))
        self.herd.arrived(now, service.prefill(job.prompt), service.full_share(job.call.output))
        self.take(job)
        if self.changed is not None:
            self.changed(self)

    def cancel(self, job: Job) -> None:
        """Nobody wants the answer any more."""
        if job.stage == ON_THE_WAY:
            job.stage = OVER
        elif job.stage in (WAITING, PREFILLING, DECODING):
            self.drop(job)
        elif job in self._unanswered:
            self._unanswered.remove(job)

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

    def charge(self, job: Job, prefill: float, decode: float, accelerator: float) -> None:
        """Book a job that is over: the seconds of its phases, and those that the accelerator spent on it."""
        service, call = job.service, job.call
        job.stage = OVER
        job.prefill, job.decode, job.accelerator = prefill, decode, accelerator
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
        self._beats = self.arrivals = 0
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
            self.arrivals += 1
            job.stage = OVER
            self._unanswered.append(job)
        else:
            return False
        return True

    def _fail(self, job: Job) -> None:
        self.tell(job, job.edge.failed)


def reply_bytes(tokens: float, stream: bool) -> float:
    return ENVELOPE_BYTES + tokens * (EVENT_BYTES if stream else TEXT_BYTES_PER_TOKEN)
