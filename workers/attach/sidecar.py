"""Stands beside an engine, out of its data path: asks after its health and load, and feeds the lease.

The registered address is the engine's own. While the engine is sick the load is None, which withdraws the lease
(workers/lease.py); when it is well again it is registered anew. Asking never stops, whatever the engine answers.
"""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from policies.records import HEARTBEAT_SECONDS, Load
from workers.attach import UNKNOWN, Adapter, Reading

log = logging.getLogger(__name__)

ASK_TIMEOUT = 1.0
"""Seconds an engine may take for one page: a busy event loop is slow, a frozen one is silent."""
SICK_AFTER = 2
"""Failed checks in a row: one lost packet is not an outage, and gateways eject on their own evidence sooner."""

UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Sidecar:
    """Keeps what an engine last said."""

    def __init__(self, adapter: Adapter, worker_id: str, boot: str, interval: float = HEARTBEAT_SECONDS) -> None:
        self.changed = asyncio.Event()
        """Set after every round of questions; the lease clears it."""
        self._adapter = adapter
        self._worker_id = worker_id
        self._boot = boot
        self._interval = interval
        self._failures = SICK_AFTER
        """In a row. Starts as sick: nothing is registered before the engine has answered."""
        self._reading: Reading = UNKNOWN
        self._seq = 0

    def load(self) -> Load | None:
        """The load record as of the last answer; None while the engine is sick."""
        if self._failures >= SICK_AFTER:
            return None
        self._seq += 1
        return Load(
            worker=self._worker_id,
            boot=self._boot,
            seq=self._seq,
            waiting=self._reading.waiting,
            running=self._reading.running,
            kv_use=self._reading.kv_use,
        )

    async def run(self) -> None:
        """Ask until cancelled. Never ends by itself."""
        while True:
            try:
                await self.ask()
            except Exception:
                log.exception("asking the engine failed")
            await asyncio.sleep(self._interval)

    async def ask(self) -> None:
        """One round: health first, load only of a healthy engine."""
        healthy = await self._healthy()
        if healthy:
            self._reading = await self._load()
        before = self._failures
        self._failures = 0 if healthy else before + 1
        if healthy and before >= SICK_AFTER:
            log.info("engine is healthy")
        elif self._failures == SICK_AFTER:
            log.warning("engine is sick: giving up its lease until it is well")
        self.changed.set()

    async def _healthy(self) -> bool:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await self._adapter.healthy()
        except UNREACHABLE as error:
            log.debug("health check failed: %r", error)
            return False

    async def _load(self) -> Reading:
        """Unknown rather than old: gateways then fall back on their own counts."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await self._adapter.load()
        except UNREACHABLE as error:
            log.debug("load not readable: %r", error)
            return UNKNOWN
