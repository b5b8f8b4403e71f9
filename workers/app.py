"""The composition roots of `worker serve` and `worker attach`, and the order in which they start and stop.

Start: load, listen, register, say so. Stop: refuse new work and report draining, finish what runs, give the lease up,
linger for what is already on its way, close. Nothing else in workers/ builds its own parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from policies.records import HEARTBEAT_SECONDS, Endpoint, Load, TensorSpec, Worker
from workers import attach as attaching
from workers import calibrate, loading, manifest
from workers.allocation import Allotment, limit
from workers.attach.conformance import Conformance, Row
from workers.attach.proxy import Proxy
from workers.attach.proxy import session as engine_session
from workers.attach.sidecar import Sidecar
from workers.attach.turns import Turns
from workers.batcher import Batcher
from workers.catalog import Catalog, Entry
from workers.config import (
    DRAIN_SECONDS,
    QUEUE_LIMIT,
    AttachConfig,
    ConfigError,
    Placement,
    ServeConfig,
    guessed_curve,
    load_key,
    record,
)
from workers.decisions import Decisions
from workers.devices import Device, chosen, load_nvml
from workers.gauges import Gauges
from workers.http import Server
from workers.lease import BEAT_TIMEOUT, CONNECTION_ERRORS, Lease, connect
from workers.monitor import Monitor
from workers.oip import OpenInference
from workers.openai import OpenAI
from workers.queue import Queue
from workers.rerank import Rerank
from workers.runners import lane_of

if TYPE_CHECKING:
    from workers.rpc import RpcServer

log = logging.getLogger(__name__)

Announce = Callable[[str], None]
"""Called once with the ready line."""

LINGER = HEARTBEAT_SECONDS
"""Seconds between giving up the lease and closing the port: what gateways sent before they read of it still gets a
clean refusal, which they repeat elsewhere, instead of a reset."""


REFRESH_SECONDS = 5.0
"""Between two looks at whether the curves have moved: a record written that often is no load on anybody."""
LISTING_TIMEOUT = 10.0
LISTING_PAUSE = 1.0
"""Seconds for an engine to list its models, and between two attempts while it is not up yet."""


class Stop(NamedTuple):
    """The operator's wish to end: asked once, finish what runs; asked twice, don't."""

    asked: asyncio.Event
    now: asyncio.Event


@contextlib.asynccontextmanager
async def signals() -> AsyncIterator[Stop]:
    """SIGTERM and SIGINT as events."""
    loop, stop = asyncio.get_running_loop(), Stop(asyncio.Event(), asyncio.Event())

    def ask() -> None:
        (stop.now if stop.asked.is_set() else stop.asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def serve(config: ServeConfig, announce: Announce) -> None:
    """Serve until told to stop. Raises ConfigError or ManifestError before anything is served."""
    paths = [*(manifest.bundled(name) for name in config.models), *config.manifests]
    if not paths:
        raise ConfigError("nothing to serve: give --model NAME or --manifest PATH")
    device = accelerator(config.device)
    catalog = loading.catalog(paths, config.variants, config.batching, allotment(config, device))
    async with signals() as stop:
        await run(catalog, config, announce, stop, Monitor(device) if device else None)


async def run(
    catalog: Catalog, config: ServeConfig, announce: Announce, stop: Stop, monitor: Monitor | None = None
) -> None:
    """Serve a loaded catalog until `stop`."""
    batcher = Batcher(
        {e.lane: e.runner for e in catalog.entries()},
        Queue(config.queue_limit),
        guard=monitor.refusal if monitor else lambda: None,
    )
    boot = secrets.token_hex(8)
    endpoints = tuple(described(entry) for entry in catalog.entries())
    lease: Lease | None = None
    # The record's id may depend on the port, so the gauges get it once the server listens.
    gauges = Gauges(boot, batcher, lambda: lease.failures if lease else 0, monitor=monitor)
    surfaces = [
        *OpenAI(catalog, batcher, gauges.report, random.SystemRandom()).routes(),
        *Rerank(catalog, batcher).routes(),
        *Decisions(catalog, batcher).routes(),
        *OpenInference(catalog, batcher).routes(),
    ]
    server = Server(surfaces, gauges, batcher.clock)
    address = at(config.host, await server.start(config.host, config.port))
    calls: RpcServer | None = None
    grpc_address: str | None = None
    try:
        if config.grpc_port is not None:
            calls = rpc_server(catalog, batcher, gauges)
            grpc_address = at(config.host, await calls.start(config.host, config.grpc_port))
        placement = placed(config.placement, monitor.device) if monitor else config.placement
        worker = record(placement, boot=boot, address=address, endpoints=endpoints, grpc_address=grpc_address)
        gauges.worker_id = worker.id
        if config.placement.redis:
            lease = leased(config.placement, worker, gauges.load, batcher.changed)
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(batcher.run())]
            if monitor is not None:
                tasks.append(background.create_task(monitor.run()))
            if lease is not None:
                tasks.append(background.create_task(lease.run()))
                tasks.append(background.create_task(refresh(lease, batcher)))
            said = f"http://{address}" + (f" grpc {grpc_address}" if grpc_address else "")
            tasks.append(background.create_task(ready(lease, said, announce)))
            await stop.asked.wait()
            await drain(batcher, server, calls, config.drain_seconds, stop)
            for task in tasks:
                task.cancel()
        await release(lease)
        if lease is not None and not stop.now.is_set():
            await asyncio.sleep(LINGER)
    finally:
        await server.close()
        if calls is not None:
            await calls.close()
        batcher.close()
        for entry in catalog.entries():
            if entry.close is not None:
                entry.close()


def accelerator(wanted: str) -> Device | None:
    """The device to serve on; None for the CPU. Whatever loads CUDA afterwards sees this one alone: a MIG instance
    cannot be had otherwise. Raises ConfigError."""
    if wanted == "cpu":
        return None
    nvml = load_nvml()
    if nvml is None:
        raise ConfigError(
            f"--device {wanted}: no NVIDIA driver answers here: install nvidia-ml-py, or use --device cpu"
        )
    try:
        device = chosen(nvml, wanted)
    except ValueError as error:
        raise ConfigError(f"--device: {error}") from error
    os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid
    return device


def allotment(config: ServeConfig, device: Device | None) -> Allotment:
    """What the worker may use. Raises ConfigError when the device does not have it."""
    if device is None:
        return Allotment(weights=dict(config.weights))
    reading = device.read()
    try:
        most = limit(reading.memory_total, reading.memory_used, config.memory_gb)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Allotment("cuda", most, dict(config.weights), config.providers)


def placed(placement: Placement, device: Device) -> Placement:
    """The placement, with what the device itself says where the options say nothing."""
    return msgspec.structs.replace(
        placement,
        accelerator=placement.accelerator or device.name,
        power_watts=placement.power_watts or device.power_limit or 0.0,
    )


async def refresh(lease: Lease, batcher: Batcher) -> None:
    """Tell the gateways when this worker's traffic shows other curves than its record does. Never ends by itself."""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        told = lease.worker.endpoints
        found = tuple(
            msgspec.structs.replace(endpoint, curve=batcher.runners[lane_of(endpoint)].curve) for endpoint in told
        )
        for before, now in zip(told, found, strict=True):
            if calibrate.moved(before.curve, now.curve, now.max_batch):
                log.info("%s is found to take %s", lane_of(now), now.curve)
                lease.describe(found)
                break


def rpc_server(catalog: Catalog, batcher: Batcher, gauges: Gauges) -> RpcServer:
    """The gRPC side. Imported here: it takes 60 ms and 15 MB, which a worker without one need not spend."""
    from workers.rpc import RpcServer

    return RpcServer(catalog, batcher, gauges)


def at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def described(entry: Entry) -> Endpoint:
    """The endpoint as it is registered: a tensor model's with what it takes and gives."""
    inputs, outputs = (tuple(TensorSpec(*spec) for spec in specs) for specs in (entry.inputs, entry.outputs))
    return msgspec.structs.replace(entry.endpoint, inputs=inputs, outputs=outputs)


async def ready(lease: Lease | None, where: str, announce: Announce) -> None:
    """Say that it serves, once it is registered."""
    if lease is not None:
        await lease.registered.wait()
    announce(f"ready {where}")


async def drain(batcher: Batcher, server: Server, calls: RpcServer | None, seconds: float, stop: Stop) -> None:
    """Take nothing new, and wait for what is in flight, `seconds` at most or until asked again."""
    batcher.draining = True
    batcher.changed.set()
    servers = (server,) if calls is None else (server, calls)
    if calls is not None:
        calls.drain()
    log.info("draining: %d requests in flight", sum(each.in_flight for each in servers))
    idle = asyncio.gather(*(each.idle() for each in servers))
    now = asyncio.ensure_future(stop.now.wait())
    await asyncio.wait((idle, now), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    left = sum(each.in_flight for each in servers)
    if left:
        log.warning("stopping with %d requests in flight", left)
    idle.cancel()
    now.cancel()


def leased(placement: Placement, worker: Worker, load: Callable[[], Load | None], changed: asyncio.Event) -> Lease:
    """The lease of a worker that is to be registered."""
    assert placement.redis
    key_id, sign = load_key(placement.key) if placement.key else ("", None)
    return Lease(connect(placement.redis), worker, load, changed, random.SystemRandom(), key_id, sign)


async def release(lease: Lease | None) -> None:
    """Deregister, if Redis is there to be told; otherwise the lease runs out by itself."""
    if lease is None:
        return
    try:
        async with asyncio.timeout(BEAT_TIMEOUT):
            await lease.withdraw()
    except CONNECTION_ERRORS as error:
        log.warning("could not deregister, the lease will run out: %s", error)
    await lease.close()


async def attach(config: AttachConfig, announce: Announce) -> None:
    """Keep an engine registered until told to stop. Raises ConfigError before anything is registered."""
    url, address = engine_address(config.url)
    if not config.placement.redis:
        raise ConfigError("--redis URL is needed: attaching means registering")
    async with signals() as stop, aiohttp.ClientSession(auto_decompress=True) as session:
        adapter = attaching.adapter(config.engine)(session, url, config.metrics_url)
        boot = secrets.token_hex(8)
        endpoints = await listed(config, adapter, stop)
        if stop.asked.is_set():
            return
        sidecar = Sidecar(adapter, "", boot)
        async with proxied(config, url, sidecar) as proxy:
            where = address if proxy is None else at(config.host, await proxy.start(config.host, config.port))
            worker = record(
                config.placement,
                boot=boot,
                address=where,
                endpoints=endpoints,
                engine=config.engine,
                health_path=adapter.health_path,
                variant_header=False,
            )
            sidecar.worker_id = worker.id
            lease = leased(config.placement, worker, sidecar.load, sidecar.changed)
            async with asyncio.TaskGroup() as background:
                work = (sidecar.run(), lease.run(), ready(lease, f"http://{where}", announce))
                tasks = [background.create_task(each) for each in work]
                await stop.asked.wait()
                for task in tasks:
                    task.cancel()
            await release(lease)
            if proxy is not None:
                await finish(proxy, stop)


@contextlib.asynccontextmanager
async def proxied(config: AttachConfig, url: str, sidecar: Sidecar) -> AsyncIterator[Proxy | None]:
    """The proxy before an engine, if it is to have one, its counts in the sidecar's load; not listening yet."""
    if not config.proxy:
        yield None
        return
    clock = asyncio.get_running_loop().time
    turns = Turns(config.max_batch, QUEUE_LIMIT, clock)
    async with engine_session() as session:
        proxy = Proxy(session, url, turns, config.max_batch, sidecar.load, sidecar.changed, clock)
        sidecar.counts = proxy.counts
        try:
            yield proxy
        finally:
            await proxy.close()


async def finish(proxy: Proxy, stop: Stop) -> None:
    """Let what is in flight end, and what is on its way come, DRAIN_SECONDS at most or until asked again."""
    await asyncio.sleep(LINGER)
    idle, now = asyncio.ensure_future(proxy.idle()), asyncio.ensure_future(stop.now.wait())
    await asyncio.wait((idle, now), timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    now.cancel()


async def conformance(url: str, engine: str, model: str, metrics_url: str) -> list[Row]:
    """What an engine shows and answers. Raises ConfigError for a URL that cannot be used."""
    base, _ = engine_address(url)
    # each question by itself: a server may close after an answer of 500
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        adapter = attaching.adapter(engine)(session, base, metrics_url)
        return await Conformance(session, base, adapter, model).rows()


def engine_address(url: str) -> tuple[str, str]:
    """The engine's base URL and HOST:PORT. Gateways speak plain HTTP/1.1 to the root of that port."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/", "/v1", "/v1/") or parts.query:
        raise ConfigError(f"{url}: give the engine as http://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{port}", f"{host}:{port}"


async def listed(config: AttachConfig, adapter: attaching.Adapter, stop: Stop) -> tuple[Endpoint, ...]:
    """The endpoints as told or, without --model, as the engine lists its models; none when stopped meanwhile."""
    pairs = config.models or await names(config.url, adapter, stop)
    curve = guessed_curve(config.prefill_tps, config.decode_tps)
    return tuple(
        Endpoint(
            model=name,
            served_name="" if served == name else served,
            variant=config.variant,
            quality=config.quality,
            curve=curve,
            max_batch=config.max_batch,
        )
        for name, served in pairs
    )


async def names(url: str, adapter: attaching.Adapter, stop: Stop) -> tuple[tuple[str, str], ...]:
    """The models an engine lists, waited for while nobody answers: engines take minutes to load theirs."""
    waiting = False
    while not stop.asked.is_set():
        try:
            async with asyncio.timeout(LISTING_TIMEOUT):
                found = await adapter.models()
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            if not waiting:
                log.warning("no engine answers at %s (%s): waiting for it", url, attaching.reason(error))
            waiting = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LISTING_PAUSE):
                    await stop.asked.wait()
            continue
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConfigError(f"{url} does not list its models ({error}): name them with --model") from error
        if not found:
            raise ConfigError(f"{url} lists no models: name them with --model")
        if waiting:
            log.warning("the engine at %s answers", url)
        return tuple((name, name) for name in found)
    return ()
