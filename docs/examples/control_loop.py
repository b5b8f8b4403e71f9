"""A control loop: every 50 ms a decision about the newest frame, worth nothing after 30 ms; misses are counted.

The frame is one of twenty digits seen by an imaginary camera, the decision which one it is. A late or refused answer is
a miss: the loop keeps the last command, as a controller must, and never waits into its next tick. `x-deadline-policy:
reject` has the gateway refuse at once what it cannot promise, instead of doing its best too late.
Data: UCI Optical Recognition of Handwritten Digits, CC BY 4.0 (held-out images).
Usage: control_loop.py [URL [TICKS]]
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from openai import APIStatusError, APITimeoutError, AsyncOpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
TICKS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
PERIOD, DEADLINE = 0.050, 0.030
SAMPLES = Path(__file__).parents[2] / "workers/models/digits/samples.npz"
HEADERS = {"x-deadline-ms": f"{DEADLINE * 1e3:.0f}", "x-deadline-policy": "reject"}
DIGITS = [{"value": str(digit)} for digit in range(10)]


async def decide(client: AsyncOpenAI, frame: list[int]) -> str:
    """The command for a frame, or why there is none in time."""
    try:
        decision = await client.decisions.create(
            model="digits",
            input=json.dumps(frame),
            questions=[{"type": "choice", "instructions": "Which digit is it?", "choices": DIGITS}],
            extra_headers=HEADERS,
            timeout=DEADLINE,
        )
    except APITimeoutError:
        return "late"
    except APIStatusError as error:
        return str(error.code)
    return decision.answers[0].choice


async def main() -> int:
    samples = np.load(SAMPLES)
    frames, labels = samples["pixels"].tolist(), samples["labels"].tolist()
    outcomes: Counter[str] = Counter()
    took: list[float] = []
    command = ""
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0) as client:
        await client.models.list()  # a connection to start with
        tick = time.monotonic()
        for number in range(TICKS):
            began = time.monotonic()
            said = await decide(client, frames[number % len(frames)])
            elapsed = time.monotonic() - began
            if not said.isdigit() or elapsed > DEADLINE:
                outcomes[said if not said.isdigit() else "late"] += 1
            else:
                command = said
                took.append(elapsed)
                outcomes["right" if command == str(labels[number % len(labels)]) else "wrong"] += 1
            tick += PERIOD
            await asyncio.sleep(max(tick - time.monotonic(), 0.0))
    p50, p99 = np.percentile(took, (50, 99)) * 1e3 if took else (float("nan"), float("nan"))
    missed = TICKS - len(took)
    print(
        f"{TICKS} ticks of {PERIOD * 1e3:.0f} ms: {len(took)} decided within {DEADLINE * 1e3:.0f} ms, {missed} missed"
    )
    print(f"answers took {p50:.1f} ms at the median, {p99:.1f} ms at the 99th percentile; outcomes: {dict(outcomes)}")
    return int(outcomes["wrong"] > TICKS // 10)


sys.exit(asyncio.run(main()))
