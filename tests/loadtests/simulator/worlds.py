"""Small worlds for the simulator's tests, with only what a test is about spelt out."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from loadtests.simulator.call import Call, Job
from loadtests.simulator.contender import Contender, Setting
from loadtests.simulator.contenders import product
from loadtests.simulator.machine import Herd
from loadtests.simulator.serving import Worker
from loadtests.simulator.timeline import Timeline
from loadtests.simulator.wan import Way
from loadtests.simulator.world import Control, Nodes, Place, Profile, RoundTrip, Serving, Wan, World
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned, Surface
from policies.config import PolicyConfig

REGIONS = {
    "east": Place(latitude=40, longitude=-75, carbon_g_per_kwh=400),
    "west": Place(latitude=37, longitude=-122, carbon_g_per_kwh=200, egress_usd_per_gb=0.08),
    "far": Place(latitude=1, longitude=104, carbon_g_per_kwh=500),
}
TRIPS = tuple(
    RoundTrip(between=(a, b), min_ms=ms, avg_ms=ms + 1, mdev_ms=0.5)
    for a, b, ms in [
        ("east", "east", 0.5), ("west", "west", 0.5), ("far", "far", 0.5),
        ("east", "west", 60.0), ("east", "far", 220.0), ("west", "far", 170.0),
    ]
)  # fmt: skip
FAST = Profile(
    accelerator="fast", prefill_tokens_per_s=20_000, overhead_s=0.002, decode_s=0.007, decode_batch_s=0.0001, slots=32,
    interference=0.5, power_watts=700, idle_watts=100,
)  # fmt: skip
SLOW = Profile(
    accelerator="slow", prefill_tokens_per_s=4_000, overhead_s=0.004, decode_s=0.02, decode_batch_s=0.0005, slots=12,
    interference=0.5, power_watts=70, idle_watts=10,
)  # fmt: skip
TIGHT = Class(name="tight", share=2, first_token_s=0.5)
LOOSE = Class(name="loose", share=1, first_token_s=5.0)
DEMAND = Demand(classes=(TIGHT, LOOSE), sizes=Ranges(prompt_tokens=(100, 1500), output_tokens=(1, 120)))
NODES = tuple(
    Nodes(name=name, region=region, profiles=(name,), count=count, usd_per_hour=usd)
    for region in REGIONS
    for name, count, usd in [("fast", 1, 3.0), ("slow", 2, 0.4)]
)


def world(**fields: Any) -> World:
    """Three regions with one fast and two slow nodes each, a gateway in two of them."""
    defaults: dict[str, Any] = {
        "name": "small", "regions": REGIONS, "round_trips": TRIPS, "profiles": {"fast": FAST, "slow": SLOW},
        "nodes": NODES, "gateways": ("east", "west"), "demand": DEMAND, "full_rate": 100.0,
        "serving": Serving(), "control": Control(), "seconds": 10.0, "warm_up": 2.0,
    }  # fmt: skip
    return World(**(defaults | fields))


def poisson(
    seconds: float = 10.0, rate: float = 60.0, *, seed: int = 1, kinds: tuple[Class, ...] = (TIGHT, TIGHT, LOOSE),
    prompt: float = 800.0, output: float = 60.0, origins: tuple[str, ...] = ("east", "west"), tenants: int = 1,
) -> list[Planned]:  # fmt: skip
    """Poisson arrivals with exponential sizes."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    times = np.sort(rng.uniform(0, seconds, count))
    return [
        Planned(
            number=number, at=float(at), kind=kinds[int(rng.integers(len(kinds)))],
            prompt_tokens=1 + int(rng.exponential(prompt)),
            output_tokens=1 + int(rng.exponential(output)) if output else 1,
            items=1, seed=int(rng.integers(2**31)), origin=origins[int(rng.integers(len(origins)))],
            tenant=f"tenant-{int(rng.integers(tenants)) + 1}",
        )
        for number, at in enumerate(times)
    ]  # fmt: skip


def house(setting: Setting) -> Contender:
    """The shipped default."""
    return product(PolicyConfig())(setting)


UNARY = Class(name="unary", surface=Surface.CHAT)


class Ear:
    """What an edge is to a worker, without anything behind it: it notes what it hears, at once."""

    def __init__(self, worker: Worker) -> None:
        trip = RoundTrip(between=("here", "here"), min_ms=0, avg_ms=1e-9)
        self.ways = {worker.region: Way(trip, Wan(spike_share=0), random.Random(0))}
        self.heard: list[tuple[str, int, float]] = []
        self.timeline = worker.timeline

    def began(self, job: Job) -> None:
        self.heard.append(("began", job.call.number, self.timeline.now))

    def done(self, job: Job) -> None:
        self.heard.append(("done", job.call.number, self.timeline.now))

    def refused(self, job: Job) -> None:
        assert job.reason is not None
        self.heard.append((job.reason.label, job.call.number, self.timeline.now))

    def failed(self, job: Job) -> None:
        self.heard.append(("failed", job.call.number, self.timeline.now))

    def lost(self, job: Job) -> None:
        self.heard.append(("lost", job.call.number, self.timeline.now))


class Alone:
    """One worker and what is sent to it."""

    def __init__(self, kind: type[Worker], profile: Profile, serving: Serving | None = None, **fields: Any) -> None:
        self.timeline = Timeline()
        nodes = Nodes(**({"name": "n", "region": "east", "profiles": ("p",), "usd_per_hour": 3.6} | fields))
        serving = serving or Serving(noise=0)
        herd = Herd(1.0, 0.0)
        self.worker = kind(self.timeline, "w", nodes, [profile], REGIONS["east"], serving, herd, random.Random(1))
        self.worker.start()
        self.ear = Ear(self.worker)
        endpoint = self.worker.main.endpoint()
        self._dispatch = SimpleNamespace(node=SimpleNamespace(endpoint=endpoint), at=0.0, attempt=1)
        self.jobs: list[Job] = []

    def send(self, at: float, prompt: int, output: int = 1, kind: Class = LOOSE, prefix: tuple[int, ...] = ()) -> Job:
        """Have a request arrive."""
        number = len(self.jobs)
        planned = Planned(number, at, kind, prompt, output, 1, 0, "east", prefix=prefix)
        job = Job(self.ear, Call(planned, 1.0, at), self._dispatch, None, self.worker)
        self.jobs.append(job)
        self.timeline.at(at, self.worker.arrive, job)
        return job

    def run(self, until: float = 1e9) -> list[Job]:
        self.timeline.run(until)
        return self.jobs

    @property
    def heard(self) -> list[tuple[str, int, float]]:
        return self.ear.heard
