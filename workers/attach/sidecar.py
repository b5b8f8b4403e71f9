"""Stands beside an engine, out of its data path: asks after its health and load, and feeds the lease.

The registered address is the engine's own, or with `--proxy` that of proxy.py, whose counts then complete what the
engine says. While the engine is sick the load is None, which withdraws the lease
(workers/lease.py); when it is well again it is registered anew. Asking never stops, whatever the engine answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from policies.records import HEARTBEAT_SECONDS, Load
from workers.attach import UNKNOWN, Adapter, Reading, reason

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
        self.worker_id = worker_id
        """May be set later: by default it contains the port of a proxy."""
        self._boot = boot
        self._interval = interval
        self._failures = SICK_AFTER
        """In a row. Starts as sick: nothing is registered before the engine has answered."""
        self._sick = False
        """Whether that was said."""
        self._reading: Reading = UNKNOWN
        self.counts: Callable[[], Reading] | None = None
        """Of the proxy, where there is one."""
        self._seq = 0

    def load(self) -> Load | None:
        """The load record as of the last answer; None while the engine is sick."""
        if self._failures >= SICK_AFTER:
            return None
        self._seq += 1
        reading = self._reading if self.counts is None else completed(self._reading, self.counts())
        return Load(
            worker=self.worker_id,
            boot=self._boot,
            seq=self._seq,
            waiting=reading.waiting,
            running=reading.running,
            kv_use=reading.kv_use,
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
        ill = await self._ill()
        if not ill:
            self._reading = await self._load()
        self._failures = self._failures + 1 if ill else 0
        if self._failures >= SICK_AFTER and not self._sick:
            log.warning("engine is sick (%s): not registered until it is well, asking on", ill)
            self._sick = True
        elif not ill and self._sick:
            log.warning("engine is well: registering it")
            self._sick = False
        self.changed.set()

    async def _ill(self) -> str:
        """Why the engine cannot be used; empty when it is well."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return "" if await self._adapter.healthy() else f"{self._adapter.health_path} says so"
        except UNREACHABLE as error:
            return reason(error)

    async def _load(self) -> Reading:
        """Unknown rather than old: gateways then fall back on their own counts."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await self._adapter.load()
        except UNREACHABLE as error:
            log.debug("load not readable: %r", error)
            return UNKNOWN


def completed(said: Reading, counted: Reading) -> Reading:
    """What an engine says of itself, and what its proxy counts: its own queue comes after the proxy's, and of what runs
    there it knows best."""
    waiting = (counted.waiting or 0) + (said.waiting or 0)
    return Reading(waiting, counted.running if said.running is None else said.running, said.kv_use)
