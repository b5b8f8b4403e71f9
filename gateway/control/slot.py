"""What the control plane may ask of one data-plane process.

Every method takes and returns plain values that JSON can carry, so that a supervisor of several processes can ask
the same over a socket. Nothing here changes the data plane but `drain`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.control import explain, nodes
from gateway.edge.plane import Plane
from gateway.registry import Registry
from gateway.ring import encode
from policies.reason import Reason
from policies.request import Shed


class Generation(msgspec.Struct, frozen=True):
    """Which configuration is in force."""

    number: int
    """1 for the one the process started with."""
    hash: str
    """Of the file's bytes; empty for the built-in defaults."""
    loaded_at: float
    """Unix time."""
    refused: str = ""
    """Why the newest file is not in force; empty when it is."""


class Slot:
    """One process: its data plane and its registry."""

    def __init__(
        self,
        plane: Plane,
        registry: Registry,
        identity: tuple[str, str],
        version: str,
        generation: Callable[[], Generation],
    ) -> None:
        self._plane = plane
        self._registry = registry
        self._region, self._gateway = identity
        self._version = version
        self._generation = generation
        self._started = plane.clock()

    def health(self) -> dict[str, Any]:
        """That it runs, and what it runs."""
        return {
            "status": "draining" if self._plane.draining else "ok",
            "gateway": self._gateway,
            "region": self._region,
            "version": self._version,
            "uptime_s": round(self._plane.clock() - self._started, 3),
            "config": msgspec.to_builtins(self._generation()),
        }

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether to send requests here. A stale registry is no reason not to while a fleet is known."""
        standings = self._registry.standings()
        live = all(standing.live for standing in standings)
        known = len(self._plane.router.fleet.workers)
        ready = not self._plane.draining and (known > 0 or any(s.live for s in standings) or not standings)
        return ready, {
            "ready": ready,
            "draining": self._plane.draining,
            "registry": "none" if not standings else "live" if live else "stale",
            "registries": [
                {"region": s.source, "live": s.live, "age_s": None if s.age is None else round(s.age, 3)}
                for s in standings
            ],
            "workers": known,
            "doubted": len(self._registry.roster.doubted),
        }

    def nodes(self, model: str | None) -> list[dict[str, Any]]:
        return nodes.rows(self._plane.router.fleet, self._plane.clock(), model)

    def signals(self, model: str | None) -> dict[str, Any]:
        """What an autoscaler may go by: supply per model and region of nodes, demand as it comes in here."""
        return nodes.signals(self._plane.router.fleet.signals, self._region, model)

    async def drain(self, worker_id: str, on: bool) -> dict[str, Any] | Shed:
        """Start or end a worker's drain, here at once and at every other gateway as soon as the registry is told."""
        try:
            shared = await self._registry.drain(worker_id, on)
        except KeyError:
            return Shed(Reason.NOT_FOUND, "No such worker; GET /admin/nodes lists them.", "worker")
        return {"worker": worker_id, "draining": on, "shared": shared}

    def steer(self, address: str, forwarded: bytes | None) -> dict[str, Any]:
        place = self._plane.locator.locate(address, forwarded)
        return nodes.steer(self._plane.steering, address, place)

    def explain(self, path: str, fields: explain.Fields, raw: bytes, address: str) -> dict[str, Any] | Shed:
        """What would be decided for a request now."""
        asking = explain.understand(path, fields, raw)
        if isinstance(asking, Shed):
            return asking
        explanation = explain.explain(self._plane, asking, address)
        return explanation if isinstance(explanation, Shed) else msgspec.to_builtins(explanation)

    def explained(self, request_id: str) -> dict[str, Any] | Shed:
        """What was decided for a recent request, and what came of it."""
        trace = self._plane.ring.find(request_id)
        if trace is None:
            return Shed(Reason.NOT_FOUND, "No recent request has this id.", "request_id")
        return encode(trace)

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The newest decisions, newest first."""
        return [encode(trace) for trace in self._plane.ring.recent(count)]

    def metrics(self) -> bytes:
        return self._plane.telemetry.page()
