"""Every registry of the configuration, feeding one roster, and the clock that judges leases.

Nothing here is ever awaited by a request. A registry that is gone, frozen or empty leaves the fleet as it was, only
older; `roster.py` has the rules of who is in, `subscription.py` talks to one Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.roster import Roster
from gateway.subscription import Subscription

SWEEP_SECONDS = 0.25
"""Between looks for lapsed leases: one heartbeat."""


class Standing(NamedTuple):
    """How well one registry is heard."""

    source: str
    live: bool
    age: float | None
    """Seconds since the last complete read; `None` before the first."""


class Registry:
    """Every registry of the configuration, feeding one roster."""

    def __init__(
        self,
        urls: Mapping[str, str],
        roster: Roster,
        count: Callable[[str], None],
        identity: tuple[str, str] = ("", ""),
        rtts: Callable[[], Mapping[str, float]] = dict,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`urls` by region, `roster.SHARED` for all others; `identity` is our region and gateway id."""
        self.roster = roster
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 (jitter)
        self._subscriptions = [
            Subscription(source, url, roster, count, identity, rtts, self._rng, clock) for source, url in urls.items()
        ]

    async def run(self) -> None:
        """Keep every subscription up and every lease judged, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for subscription in self._subscriptions:
                tasks.create_task(subscription.run())
            tasks.create_task(self._sweep())

    async def settled(self, seconds: float) -> None:
        """Wait until every registry was read or failed to be, but not longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for subscription in self._subscriptions:
                    await subscription.tried.wait()

    def standings(self) -> list[Standing]:
        now = self._clock()
        return [
            Standing(
                subscription.source,
                subscription.live,
                None if subscription.read_at is None else now - subscription.read_at,
            )
            for subscription in self._subscriptions
        ]

    async def drain(self, worker_id: str, on: bool) -> bool:
        """Start or end a drain: here at once, and for every gateway. False when the registry could not be told (yet).

        Raises KeyError for a worker nobody knows.
        """
        member = self.roster.members[worker_id]
        self.roster.drain(worker_id, on, self._clock())
        for subscription in self._subscriptions:
            if subscription.source == member.source:
                return await subscription.drain(member.worker.region, worker_id, on)
        return False

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._clock()
            for subscription in self._subscriptions:
                if subscription.live:
                    self.roster.sweep(subscription.source, now)
