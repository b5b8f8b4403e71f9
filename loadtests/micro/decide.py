"""`make bench-decide`: microseconds of `Router.route`, `report` and `observe`, by the number of nodes of one model.

The shipped router over a fleet of many prices, speeds and distances, with queues at a third of it and loads a heartbeat
old on average; requests of mixed deadlines, so that now the cheapest nodes are in time and now only the dearest. Every
decision is reported before the next one, at a virtual time that goes on. Medians, because the machine is shared; the
garbage collector rests, as it nearly does in the gateway. Writes build/bench/decide.json.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from policies.admission import AdmissionConfig
from policies.config import PolicyConfig
from policies.fleet import Fleet
from policies.records import Curve, Endpoint, Load, MarginalPrice, Worker
from policies.request import Dispatch, LoadSeen, Outcome, Request, RoundTrip, WorkerSeen
from policies.router import Router

SIZES = (8, 64, 1_000, 10_000)
TARGETS = {"8": 8.0, "64": 10.0, "1000": 16.0, "10000": 25.0}
"""Median microseconds of `route` that we allow ourselves, on an idle core."""
MOST = 10.0
"""Of `report` and of `observe`."""
ROUNDS = 4_000
REGIONS = 10
MODEL = "bench"
DEADLINES = (0.05, 0.2, 0.5, 2.0, 10.0)
"""Seconds; the nearest node answers in about 30 ms, the slowest in about 1 s."""
POLICY = PolicyConfig(admission=AdmissionConfig(early_rejection=False))
"""Every request is decided to the end, the impossible ones too."""
ANSWER = Outcome(first_byte=0.02, total=0.3, queue=0.0, prefill=0.01, decode=0.2, accelerator=0.02, output_tokens=64)
RESULT = Path("build/bench/decide.json")


def fleet(nodes: int, rng: random.Random) -> Router:
    """A router that knows so many nodes."""
    router = Router(Fleet(rng), {"house": POLICY.build()}, rng)
    for index in range(nodes):
        speed = rng.choice((1.0, 2.0, 8.0))
        curve = Curve(0.004 * speed, prefill=2e-5 * speed, decode=0.002 * speed, decode_batch=2e-5 * speed)
        endpoint = Endpoint(model=MODEL, variant="bf16", quality=1.0, curve=curve, max_batch=64)
        worker = Worker(
            id=f"w{index}", boot="b", seq=1, address="127.0.0.1:9", region=f"r{index % REGIONS}",
            price=MarginalPrice(rng.uniform(2.0, 6.0) / speed), endpoints=(endpoint,),
        )  # fmt: skip
        router.observe(WorkerSeen(worker), 0.0)
        router.observe(RoundTrip(worker.id, 0.01 + 0.025 * (index % REGIONS)), 0.0)
        busy = rng.random() < 1 / 3
        load = Load(
            worker=worker.id, boot="b", seq=1, waiting=2 if busy else 0, running=rng.randrange(32),
            backlog=rng.uniform(0.01, 0.3) if busy else 0.0, arrived=1,
        )  # fmt: skip
        router.observe(LoadSeen(load, rng.random()), 0.0)
    router.tick(0.05)
    return router


def requests(rng: random.Random) -> list[Request]:
    return [
        Request(
            id="r", model=MODEL, policy="house", arrived=0.0, stream=True, deadline=deadline + 0.05,
            prompt_tokens=float(rng.randrange(50, 2000)), output_tokens=64.0, reply_bytes=4e3,
        )
        for deadline in DEADLINES for _ in range(20)
    ]  # fmt: skip


def timed(nodes: int, rounds: int) -> dict[str, float]:
    """Median microseconds of each verb."""
    rng = random.Random(nodes)
    router, asked = fleet(nodes, rng), requests(rng)
    taken: dict[str, list[int]] = {"route": [], "report": [], "observe": []}

    def clocked(verb: str, call: Callable[..., object], *args: object) -> object:
        began = time.perf_counter_ns()
        result = call(*args)
        taken[verb].append(time.perf_counter_ns() - began)
        return result

    for index in range(rounds):
        decision = clocked("route", router.route, asked[index % len(asked)], 0.05)
        assert isinstance(decision, Dispatch), decision
        clocked("report", router.report, decision, ANSWER, 0.05)
        state = decision.node.state
        load = Load(worker=state.record.id, boot="b", seq=index + 2, waiting=0, running=3, backlog=0.0, arrived=1)
        clocked("observe", router.observe, LoadSeen(load, 0.01), 0.05)
    return {verb: round(statistics.median(times) / 1e3, 2) for verb, times in taken.items()}


def main(rounds: int = ROUNDS) -> int:
    gc.disable()
    by_size = {str(size): timed(size, rounds) for size in SIZES}
    result = {
        "p50_us": {size: figures["route"] for size, figures in by_size.items()},
        "report_us": max(figures["report"] for figures in by_size.values()),
        "observe_us": max(figures["observe"] for figures in by_size.values()),
        "targets_us": TARGETS | {"report": MOST, "observe": MOST},
        "rounds": rounds,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
