"""Many emulated workers in one process, each with an accelerator of the simulator's model.

`python -m loadtests.live.crowd FILE --redis URL`; the file is JSON, a list of `Member`. Each listens on its own port,
registers and heartbeats as one of its own would, so that nobody outside can tell.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
import msgspec
import uvloop
from aiohttp import web

from loadtests.live.accelerator import Accelerator
from loadtests.live.emulated import Emulated, application
from loadtests.live.worker import keep_registered
from loadtests.simulator.world import Profile
from policies import records


class Member(msgspec.Struct, frozen=True):
    """One worker: as it registers, how it serves, where it listens."""

    worker: records.Worker
    profile: Profile
    port: int
    mean_output: float
    heartbeat_s: float = records.HEARTBEAT_SECONDS


async def run(members: list[Member], redis: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runners = []
    async with asyncio.TaskGroup() as group:
        leases = []
        for member in members:
            accelerator = Accelerator(member.profile, member.mean_output, loop.time)
            emulated = Emulated(member.worker, accelerator, member.heartbeat_s)
            runner = web.AppRunner(
                application(emulated), handler_cancellation=True, keepalive_timeout=75, shutdown_timeout=0.1,
                access_log=None,
            )  # fmt: skip
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", member.port).start()
            runners.append(runner)
            leases.append(group.create_task(keep_registered(emulated, redis)))
        print(f"ready {len(members)} workers", flush=True)
        await stop.wait()
        for lease in leases:
            lease.cancel()
    for runner in runners:
        await runner.cleanup()


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--redis", required=True, help="Registry URL.")
def main(path: Path, redis: str) -> None:
    """Serve the workers of FILE."""
    uvloop.run(run(msgspec.json.decode(path.read_bytes(), type=list[Member]), redis))


if __name__ == "__main__":
    main()
