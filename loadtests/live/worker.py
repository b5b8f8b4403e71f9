"""An emulated worker as a process: `python -m loadtests.live.worker --help`.

It registers through the registry's own schema, so a gateway cannot tell it from a real one; or, without `--redis`,
it stays unregistered and stands in for a foreign engine that `isochrone worker attach` registers. What it answers is
`emulated.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import click
import msgspec
import uvloop
from aiohttp import web
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from loadtests.live.emulated import Emulated, application
from policies import records


async def keep_registered(emulated: Emulated, url: str) -> None:
    """Register and heartbeat until cancelled. Redis being away costs nothing but the lease."""
    redis = Redis.from_url(url, socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0))
    written: records.Worker | None = None
    while True:
        try:
            if written is not emulated.worker:
                written = emulated.worker = await _register(redis, emulated.worker)
            if not await _beat(redis, emulated):
                written = None
                continue
        except (RedisError, OSError, TimeoutError):
            written = None
        try:
            async with asyncio.timeout(emulated.heartbeat):
                await emulated.changed.wait()
            emulated.changed.clear()
        except TimeoutError:
            pass  # the ordinary case: nothing changed since the last beat


async def _register(redis: Redis, worker: records.Worker) -> records.Worker:
    worker = msgspec.structs.replace(worker, seq=max(int(time.time() * 1e3), worker.seq + 1))
    sealed = records.seal_worker(worker)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.sadd(records.REGIONS, worker.region)
        pipe.set(records.node_key(worker.region, worker.id), sealed)
        pipe.sadd(records.ids_key(worker.region), worker.id)
        pipe.publish(records.changes_channel(worker.region, worker.id), records.NODE + sealed)
        await pipe.execute()
    return worker


async def _beat(redis: Redis, emulated: Emulated) -> bool:
    """Renew the lease; False when the rest of the registration is gone."""
    worker, raw = emulated.worker, records.encode_load(emulated.load())
    async with redis.pipeline(transaction=False) as pipe:
        pipe.set(records.load_key(worker.region, worker.id), raw, px=int(records.LEASE_SECONDS * 1e3))
        pipe.publish(records.changes_channel(worker.region, worker.id), records.LOAD + raw)
        pipe.exists(records.node_key(worker.region, worker.id))
        *_, stored = await pipe.execute()
    return bool(stored)


async def run(emulated: Emulated, host: str, port: int, redis: str | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    runner = web.AppRunner(application(emulated), handler_cancellation=True, keepalive_timeout=75, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    address = "{}:{}".format(*runner.addresses[0][:2])
    if not emulated.worker.address.rpartition(":")[2].strip("0"):
        emulated.worker = msgspec.structs.replace(emulated.worker, address=address)
    async with asyncio.TaskGroup() as group:
        lease = group.create_task(keep_registered(emulated, redis)) if redis else None
        print(f"ready http://{address}", flush=True)
        await stop.wait()
        if lease is not None:
            lease.cancel()
    await runner.cleanup()


@click.command()
@click.option("--id", "worker_id", required=True)
@click.option("--region", required=True)
@click.option("--model", "models", multiple=True, required=True)
@click.option("--variant", default="fp32")
@click.option("--quality", default=1.0)
@click.option("--base-ms", default=5.0, help="Fixed service time.")
@click.option("--item-ms", default=1.0, help="Each further item of a batch.")
@click.option("--prefill-ms", default=0.0, help="Per prompt token.")
@click.option("--decode-ms", default=1.0, help="Per output token.")
@click.option("--max-batch", default=4)
@click.option("--price-hour", default=1.0)
@click.option("--egress-gb", default=0.0)
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=0)
@click.option("--advertise", default="", metavar="HOST:PORT", help="The address to register, when it is another.")
@click.option("--redis", default=None, help="Registry URL; without one it stays unregistered.")
def main(
    worker_id: str, region: str, models: tuple[str, ...], variant: str, quality: float,
    base_ms: float, item_ms: float, prefill_ms: float, decode_ms: float, max_batch: int,
    price_hour: float, egress_gb: float, host: str, port: int, advertise: str, redis: str | None,
) -> None:  # fmt: skip
    """Serve MODEL with the given service curve."""
    curve = records.Curve(base_ms / 1e3, item_ms / 1e3, prefill_ms / 1e3, decode_ms / 1e3)
    endpoints = tuple(
        records.Endpoint(model=model, variant=variant, quality=quality, curve=curve, max_batch=max_batch)
        for model in models
    )
    worker = records.Worker(
        id=worker_id,
        boot=f"{os.getpid()}-{time.time_ns()}",
        seq=0,
        address=advertise or f"{host}:0",
        region=region,
        price=records.MarginalPrice(price_hour),
        egress_usd_per_gb=egress_gb,
        accelerator="emulated",
        endpoints=endpoints,
    )
    uvloop.run(run(Emulated(worker), host, port, redis))


if __name__ == "__main__":
    main()
