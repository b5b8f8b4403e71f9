"""The gRPC row of `make bench-edge`: CPU microseconds per ModelInfer, gRPC in and gRPC out, beside HTTP's in one file.

The same 32 nodes, the same decision, a message of a kilobyte. Both ends are grpc.aio in processes of their own; what is
counted is the gateway's process, from /proc. Adds its keys to build/bench/edge.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import msgspec
import redis
import uvloop

from loadtests.embedded import start_redis
from loadtests.live import bench_edge
from loadtests.live.bench_edge import RESULT, ROUNDS, SECONDS, Heart, cpu_seconds, gateway_command, pinned
from loadtests.live.bench_ends import CONNECTIONS, MODEL, PORTS
from loadtests.processes import Child, ChildError, end_all

METHOD = "/inference.GRPCInferenceService/ModelInfer"
SERVICE, NAME = METHOD.strip("/").split("/")
CHANNELS = 8
"""Connections that the calls in flight share: gRPC multiplexes where HTTP/1.1 takes one each."""
FEATURES = 240
TRAILERS = (("server-timing", "queue;dur=0.010, prefill;dur=0.100, decode;dur=0.200, accel;dur=0.300"),)


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that has a length (protobuf.dev/programming-guides/encoding)."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    return bytes((number,)) if number < 128 else bytes((number & 127 | 128,)) + varint(number >> 7)


def message(values: bytes) -> bytes:
    """A ModelInferRequest of one row."""
    tensor = field(1, b"x") + field(2, b"FP32") + field(3, varint(1) + varint(FEATURES))
    return field(1, MODEL.encode()) + field(5, tensor) + field(7, values)


REQUEST = message(b"\0" * 4 * FEATURES)
ANSWER = field(1, MODEL.encode()) + field(6, b"\0" * 900)


# The two ends.


async def serve_stub() -> None:
    """Workers that answer every call with the same bytes."""

    async def answer(raw: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(TRAILERS)
        return ANSWER

    method = grpc.unary_unary_rpc_method_handler(answer)
    ports = []
    servers = [grpc.aio.server() for _ in range(PORTS)]
    for server in servers:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {NAME: method}),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
    print("ready", *ports, flush=True)
    await asyncio.Event().wait()


async def send(port: int, seconds: float) -> None:
    """A closed loop of as many calls as `bench_edge` has connections; prints how many were answered."""
    until = time.monotonic() + seconds
    answered = 0

    async def loop(call: Any) -> None:
        nonlocal answered
        while time.monotonic() < until:
            await call(REQUEST)
            answered += 1

    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(CHANNELS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options))
            calls.append(channel.unary_unary(METHOD))
        await asyncio.gather(*(loop(calls[number % CHANNELS]) for number in range(CONNECTIONS)))
    print(answered)


# Measuring.


class Turn(NamedTuple):
    microseconds: float
    per_second: float


def measure(pid: int, port: int, seconds: float) -> Turn:
    before, begun = cpu_seconds(pid), time.monotonic()
    command = [sys.executable, "-m", "loadtests.live.bench_rpc", "--send", str(port), "--seconds", str(seconds)]
    said = subprocess.run([*pinned(0), *command], check=True, capture_output=True, text=True, timeout=seconds + 60)
    answered = int(said.stdout)
    return Turn((cpu_seconds(pid) - before) / answered * 1e6, answered / (time.monotonic() - begun))


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, int]]:
    """A gateway that knows its fleet: its process and its gRPC port."""
    children: list[Child] = []
    heart = None
    try:
        stub, ports = bench_edge.start_stub(folder)
        children.append(stub)
        command = [*pinned(0), sys.executable, "-m", "loadtests.live.bench_rpc", "--stub"]
        calls = Child("rpc-stub", command, folder)
        children.append(calls)
        targets = calls.wait_ready(20.0).split()[1:]
        server, url = start_redis(folder)
        children.append(server)
        client = redis.Redis.from_url(url)
        fleet = [
            msgspec.structs.replace(worker, grpc_address=f"127.0.0.1:{targets[index % PORTS]}")
            for index, worker in enumerate(bench_edge.workers(ports))
        ]
        bench_edge.register(client, fleet)
        heart = Heart(client, fleet)
        heart.start()
        path = folder / "rpc.yaml"
        path.write_text(bench_edge.GATEWAY % url)
        front = Child("gateway", [*pinned(1), *gateway_command(), "--config", str(path), "--grpc-port", "0"], folder)
        children.append(front)
        found = re.search(r" grpc \S+:(\d+)", front.wait_ready(30.0))
        if found is None:
            raise ChildError("the gateway did not say its gRPC port")
        port = int(found[1])
        wait_until_routed(port)
        yield front.pid, port
    finally:
        if heart is not None:
            heart.stop()
        end_all(children)


def wait_until_routed(port: int) -> None:
    """Until the gateway has read its fleet."""
    until = time.monotonic() + 10
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        while True:
            try:
                channel.unary_unary(METHOD)(REQUEST, timeout=5)
            except grpc.RpcError as error:
                if time.monotonic() > until:
                    raise ChildError(f"the gateway does not route: {error}") from error
                time.sleep(0.1)
            else:
                return


def row(turns: list[Turn]) -> dict[str, object]:
    times = [turn.microseconds for turn in turns]
    return {
        "isochrone_grpc_us": round(statistics.median(times), 2),
        "isochrone_grpc_us_min_max": [round(min(times), 2), round(max(times), 2)],
        "isochrone_grpc_per_second": round(statistics.median(turn.per_second for turn in turns)),
        "grpc_message_bytes": len(REQUEST),
        "grpc_channels": CHANNELS,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU per gRPC inference through the gateway.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub:
        uvloop.run(serve_stub())
        return 0
    if options.send:
        uvloop.run(send(options.send, options.seconds))
        return 0
    turns = []
    with tempfile.TemporaryDirectory(prefix="bench-rpc-") as folder, gateway(Path(folder)) as (pid, port):
        measure(pid, port, 1.0)  # connections made, caches warm
        for number in range(options.rounds):
            turns.append(measure(pid, port, options.seconds))
            us, per_second = turns[-1]
            print(f"round {number + 1} isochrone by gRPC {us:6.1f} us  {per_second:8.0f}/s", file=sys.stderr)
    found = row(turns)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(known | found, indent=1) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
