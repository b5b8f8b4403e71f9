"""The composition root of one gateway process: what is built of what, in which order it starts, and how it ends.

Start: last known fleet, registry, probes, control plane, then clients. End: clients drain while everything else
still works, then the rest goes. Background loops never die: a fault costs a log line and a count.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway import snapshot
from gateway.auth import Keys, verifier
from gateway.config import GatewayConfig, notes
from gateway.control import app as control
from gateway.control.slot import Slot
from gateway.decisions import DecisionLog
from gateway.edge.listener import Listener, listen
from gateway.edge.plane import Plane
from gateway.edge.stay import release
from gateway.edge.upstream import Pools
from gateway.edge.wheel import TimerWheel
from gateway.geo import Locator
from gateway.meters import show
from gateway.probes import Probes
from gateway.registry import Registry
from gateway.reload import Reload
from gateway.ring import Ring
from gateway.roster import SHARED, Roster
from gateway.routes import Routes
from gateway.steer import Steering
from gateway.telemetry import Telemetry
from policies.fleet import Fleet
from policies.records import Verify
from policies.request import Change, LoadSeen, ProbeFailed, RoundTrip, WorkerGone, WorkerSeen
from policies.router import Policy, Router
from policies.shadow import Shadowed

if TYPE_CHECKING:
    from gateway.edge.rpc import RpcPools
    from gateway.edge.rpc_listener import RpcListener

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05
"""Between ticks of the router; also how finely the event loop's lag is seen."""
WATCH_SECONDS = 1.0
"""Between looks at the files that may change under us: configuration and GeoIP database."""
SNAPSHOT_SECONDS = 3.0
DRAIN_SECONDS = 120.0
"""Longest a drain waits for what is in flight (faults.md section 5)."""
FIRST_READ_SECONDS = 1.0
"""How long the first clients may wait for the first read of a registry that answers."""
RESTART_SECONDS = 1.0
"""Pause after a background loop ended in a fault."""
CANCEL_SECONDS = 1.0
CANCELLATIONS = 3


class Built(NamedTuple):
    """What one configuration makes; a reload builds it anew and swaps it in."""

    routes: Routes
    policies: dict[str, Policy]
    keys: Keys
    locator: Locator
    steering: Steering
    verify: Verify | None


def build(config: GatewayConfig) -> Built:
    """Everything that may change while the process runs. Raises ConfigError."""
    routes = Routes(config)
    geo = config.geoip
    return Built(
        routes=routes,
        policies=routes.policies(),
        keys=Keys(config),
        locator=Locator(geo.path if geo else None, config.trusted_peers, geo.max_age_s if geo else None),
        steering=Steering(config.regions),
        verify=verifier(config),
    )


def _router(fleet: Fleet, built: Built, rng: random.Random) -> Router:
    """One that puts requests to shadows too, where a route has one."""
    if built.routes.shadowed(fleet, rng):
        return Shadowed(fleet, built.policies, rng, built.routes.shadow)
    return Router(fleet, built.policies, rng)


class Gateway:
    """One process: its data plane, its registry, its control plane."""

    def __init__(
        self,
        config: GatewayConfig,
        path: Path | None = None,
        overlay: Callable[[GatewayConfig], GatewayConfig] = lambda config: config,
    ) -> None:
        """`overlay` applies the command line to a file that is read again. Needs a running event loop."""
        self.config = config
        built = build(config)
        urls = {SHARED: config.redis} if config.redis is not None else config.registries
        identity = (config.region, config.id)
        rng = random.Random()  # noqa: S311 (balancing and jitter)
        clock = time.monotonic
        self.telemetry = Telemetry()
        self.fleet = Fleet(rng, config.health)
        self.fleet.weigh(built.routes.extra)
        self.roster = Roster(urls, built.verify, self.observe, self.telemetry.count, self._verify)
        self.registry = Registry(urls, self.roster, self.telemetry.count, identity, self._rtts, rng, clock)
        self.probes = Probes(
            self.measured, self.telemetry.count, config.probes.interval_s, config.upstream.source_address, rng, clock
        )
        self._rng = rng
        wheel = TimerWheel(clock)
        self.decisions: DecisionLog | None = None
        if config.decision_log is not None:
            self.decisions = DecisionLog(
                config.decision_log, identity, self.fleet, config.auth.pepper, self.telemetry.count, rng, time.time
            )
        self.plane = Plane(
            router=_router(self.fleet, built, rng),
            routes=built.routes,
            keys=built.keys,
            locator=built.locator,
            steering=built.steering,
            telemetry=self.telemetry,
            ring=Ring(sink=self.decisions, dropped=self._undecided),
            limits=config.limits,
            upstream=Pools(
                wheel,
                clock,
                source=config.upstream.source_address,
                connect_timeout=config.upstream.connect_timeout_s,
                idle_seconds=config.upstream.idle_s,
                max_connections=config.upstream.max_connections,
            ),
            wheel=wheel,
            hosts=config.hosts,
            decision_headers=config.decision_headers,
            measure_clients=config.deadline_from == "client",
            ask=self.probes.ask,
            clock=clock,
        )
        self.reload = Reload(path, config, overlay, build, self._swap, self.telemetry.count)
        self.slot = Slot(self.plane, self.registry, identity, version(), lambda: self.reload.generation)
        show(self.telemetry, self.plane, self.registry, config.region, lambda: self.reload.generation)
        self.plane.rpc = None if config.listen.grpc_port is None else _rpc_pools(self.plane)
        self._saved = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    # What is seen goes to those who want to know.

    def observe(self, change: Change, now: float) -> None:
        """From the roster: a worker came, changed, reported or left."""
        try:
            self.plane.router.observe(change, now)
            if isinstance(change, WorkerSeen):
                self.probes.follow(change.worker)
            elif isinstance(change, WorkerGone):
                self.probes.forget(change.worker_id)
            self._release(now)
        except Exception:  # one change must not cost the others
            self._fault("change")

    def measured(self, change: Change, now: float) -> None:
        """From the probes: a worker answered, or did not."""
        try:
            self.plane.router.observe(change, now)
            if isinstance(change, RoundTrip | ProbeFailed):
                self.roster.probed(change.worker_id, isinstance(change, RoundTrip))
            else:
                assert isinstance(change, LoadSeen)  # it renews no lease: only the registry says who is a member
            self._release(now)
        except Exception:
            self._fault("measurement")

    def _release(self, now: float) -> None:
        """Something changed: requests that are held may go."""
        if self.plane.router.waiting.lines:
            release(self.plane, now)

    def _verify(self, worker_ids: list[str]) -> None:
        log.warning("most of a registry is gone; keeping its workers while they answer probes",
                    extra={"workers": len(worker_ids)})  # fmt: skip
        self.probes.verify(worker_ids)

    def _rtts(self) -> dict[str, float]:
        return {region: trips.mean for region, trips in self.fleet.regions().items() if trips.samples}

    def _undecided(self, error: Exception) -> None:
        self.telemetry.count("ring.sink_failed")

    def _fault(self, loop: str) -> None:
        log.exception("fault in a background loop", extra={"loop": loop})
        self.telemetry.count("loop.faults")

    def _swap(self, config: GatewayConfig, built: Built) -> None:
        """Put a configuration in force, between two callbacks of the loop."""
        plane = self.plane
        router = _router(self.fleet, built, self._rng)
        router.adopt(plane.router)
        built.routes.adopt(plane.routes)
        plane.router, plane.routes = router, built.routes
        self.fleet.weigh(built.routes.extra)
        built.locator.adopt(plane.locator)
        plane.keys, plane.locator, plane.steering = built.keys, built.locator, built.steering
        plane.limits, plane.decision_headers = config.limits, config.decision_headers
        plane.hosts = frozenset(host.lower().encode() for host in config.hosts)
        plane.measure_clients = config.deadline_from == "client"
        self.roster.trust(built.verify)
        self.config = config

    # The life of the process.

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until told to stop, then drain. Raises OSError when an address cannot be used."""
        self._restore()
        for note in notes(self.config):
            log.warning(note)
        loops: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("registry", self.registry.run),
            ("probes", self.probes.run),
            ("tick", self._tick),
            ("watch", self._watch),
            ("snapshot", self._save_often),
        ]
        if self.decisions is not None:
            loops.append(("decisions", self.decisions.run))
        background = [asyncio.ensure_future(self._keep(name, work)) for name, work in loops]
        try:
            await self.registry.settled(FIRST_READ_SECONDS)
            where = self.config.control
            door = await control.serve(self.slot, lambda: self.plane.keys, where.host, where.port)
            try:
                await self._serve(announce, door.port)
            finally:
                await door.close()
        finally:
            await end(background)
            self.plane.upstream.close()
            if self.plane.rpc is not None:
                await self.plane.rpc.close()
            self.plane.wheel.stop()
            await self._save()
            if self.decisions is not None:
                await self.decisions.close()

    async def _serve(self, announce: Callable[[str], None], control_port: int) -> None:
        entry = self.config.listen
        listener = await listen(self.plane, (entry.host, entry.port))
        calls = None
        try:
            places = url(entry.host, listener.port), url(self.config.control.host, control_port)
            ready = f"ready {places[0]} control {places[1]}"
            if entry.grpc_port is not None:
                calls = await _listen_for_calls(self.plane, entry.host, entry.grpc_port)
                ready += f" grpc {url(entry.host, calls.port).removeprefix('http://')}"
            announce(ready)
            log.info("serving", extra={"listen": places[0], "control": places[1], "gateway": self.config.id,
                                       "region": self.config.region, "version": version()})  # fmt: skip
            await self._stop.wait()
            await self._drain(listener, calls)
        finally:
            listener.close()
            if calls is not None:
                await calls.close()

    async def _drain(self, listener: Listener, calls: RpcListener | None) -> None:
        log.info("draining", extra={"seconds": DRAIN_SECONDS})
        doors: list[Listener | RpcListener] = [listener] if calls is None else [listener, calls]
        drain = asyncio.ensure_future(asyncio.gather(*(door.drain(DRAIN_SECONDS) for door in doors)))
        hurry = asyncio.ensure_future(self._hurry.wait())
        ends: set[asyncio.Future[Any]] = {drain, hurry}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        whole = drain.done() and all(drain.result())
        drain.cancel()
        hurry.cancel()
        await asyncio.gather(drain, hurry, return_exceptions=True)
        log.info("drained", extra={"state": "whole" if whole else "cut short"})

    def stop(self) -> None:
        """Drain and end; the second time, without waiting."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    # The loops.

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                self._fault(name)
            await asyncio.sleep(RESTART_SECONDS)

    async def _tick(self) -> None:
        clock = self.plane.clock
        while True:
            due = clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = clock()
            self.telemetry.lagged(max(0.0, now - due))
            self.plane.router.tick(now)
            self._release(now)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.reload.look()
            await asyncio.to_thread(self.plane.locator.refresh)

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            await self._save()

    async def _save(self) -> None:
        """Write the fleet down when it changed and nobody in it is doubted: an unsure fleet never replaces a known."""
        roster, path = self.roster, self.config.snapshot
        if path is None or not roster.members or roster.doubted or roster.version == self._saved:
            return
        version_now = roster.version
        taken = snapshot.take(roster.sealed(), roster.drained, time.time())
        try:
            await asyncio.to_thread(snapshot.save, Path(path), taken)
        except OSError as error:
            self.telemetry.count("snapshot.failed")
            log.warning("snapshot not written", extra={"file": path, "error": error})
            return
        self._saved = version_now
        self.telemetry.count("snapshot.saved")

    def _restore(self) -> None:
        if self.config.snapshot is None:
            return
        found = snapshot.load(Path(self.config.snapshot))
        if isinstance(found, snapshot.Corrupt):
            self.telemetry.count("snapshot.corrupt")
            log.warning("snapshot not used", extra={"file": self.config.snapshot, "error": found.detail})
        elif found is not None:
            now = self.plane.clock()
            restored = self.roster.restore(found.sealed(), now)
            for region, worker_ids in found.drained.items():
                self.roster.drains(region, worker_ids, now)
            log.info("snapshot restored", extra={"workers": restored, "age_s": round(found.age(), 1)})


# Imported where needed: grpc takes 60 ms and 15 MB, which a gateway without it need not spend.


def _rpc_pools(plane: Plane) -> RpcPools:
    from gateway.edge.rpc import RpcPools

    return RpcPools(plane.wheel, plane.clock, plane.telemetry.count)


async def _listen_for_calls(plane: Plane, host: str, port: int) -> RpcListener:
    from gateway.edge.rpc_listener import RpcListener

    listener = RpcListener(plane)
    await listener.start(host, port)
    return listener


async def end(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Cancel until everything has ended: Python 3.11 may lose a cancellation that meets a fault in a task group."""
    pending = set(tasks)
    for _ in range(CANCELLATIONS):
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        if not pending:
            return
    log.error("background loops left behind", extra={"loop": len(pending)})


def version() -> str:
    return importlib.metadata.version("isochrone")


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
