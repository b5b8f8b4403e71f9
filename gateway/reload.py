"""A changed configuration file: read whole, checked whole, and put in force whole, or refused while the old one stays.

Reading and building happen in a thread; `swap` runs on the event loop between two of its callbacks. What needs other
sockets or connections needs a restart, and a file that changes it is refused with that word.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gateway import config as configuration
from gateway.config import ConfigError, GatewayConfig
from gateway.control.slot import Generation

log = logging.getLogger(__name__)

T = TypeVar("T")

RELOADABLE = frozenset(
    {"routes", "policies", "auth", "tenants", "registry", "geoip", "regions", "limits", "decision_headers", "hosts"}
    | {"deadline_from", "trusted_peers"}
)

Signature = tuple[int, int, int]


class Reload(Generic[T]):
    """The file of a running gateway and the configuration in force.

    `overlay` applies the command line over a file; `build` makes of a configuration what `swap` puts in force.
    """

    def __init__(
        self,
        path: Path | None,
        config: GatewayConfig,
        overlay: Callable[[GatewayConfig], GatewayConfig],
        build: Callable[[GatewayConfig], T],
        swap: Callable[[GatewayConfig, T], None],
        count: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._config = config
        self._overlay = overlay
        self._build = build
        self._swap = swap
        self._count = count
        self._wall = wall
        self._seen = self._sign()
        self.generation = Generation(1, _digest(path), wall())

    async def look(self) -> None:
        """Reload if the file changed since it was last looked at; call about once a second."""
        seen = await asyncio.to_thread(self._sign)
        if seen != self._seen:
            self._seen = seen
            await self.reload()

    async def reload(self) -> bool:
        """Read the file now. Whether it is in force."""
        if self._path is None:
            return False
        number = self.generation.number
        try:
            config, digest = await asyncio.to_thread(self._read, self._path)
            built = await asyncio.to_thread(self._build, config)
        except ConfigError as error:
            self._refuse(str(error).replace("\n", "; "), error.path)
            return False
        except Exception as error:  # a configuration that breaks us while building is refused as well
            log.exception("configuration fault", extra={"file": self._path})
            self._refuse(f"{type(error).__name__}: {error}", "")
            return False
        self._swap(config, built)
        self._config = config
        self.generation = Generation(number + 1, digest, self._wall())
        self._count("config.applied")
        log.info("configuration in force", extra={"file": self._path, "generation": number + 1, "config": digest})
        return True

    def _read(self, path: Path) -> tuple[GatewayConfig, str]:
        digest = _digest(path)
        config = self._overlay(configuration.load(path))
        for name in GatewayConfig.__struct_fields__:
            if name not in RELOADABLE and getattr(config, name) != getattr(self._config, name):
                raise ConfigError(f"$.{name}", "changing it needs a restart", str(path))
        return config, digest

    def _refuse(self, error: str, field: str) -> None:
        old = self.generation
        self.generation = Generation(old.number, old.hash, old.loaded_at, error)
        self._count("config.refused")
        log.error("configuration refused, the old one stays", extra={"error": error, "field": field})

    def _sign(self) -> Signature | None:
        """What changes whenever the file does, also when it is replaced or vanishes."""
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _digest(path: Path | None) -> str:
    """A short name for the file's content; empty when there is none."""
    try:
        return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
