"""An engine whose load is gauges on a page of metrics: vllm.py and its like only say which page and which names.

Series of one name are ranks or replicas: what waits and runs adds up, of the cache use the fullest counts. Only the
wanted lines are parsed; the histograms of such pages are hundreds of kilobytes.
"""

from __future__ import annotations

import logging
import math
from typing import ClassVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from workers.attach import UNKNOWN, Reading, page
from workers.attach.openai import OpenAI

log = logging.getLogger(__name__)

Gauge = tuple[str, tuple[tuple[str, str], ...]]
"""A name, and the labels that a series must have to count."""


class Metered(OpenAI):
    """What the adapters of such engines share. Without a running gauge what runs is unknown; the queue counts alone."""

    metrics_path: ClassVar[str] = "/metrics"
    metrics_port: ClassVar[int | None] = None
    """Where the page stands when it is not on the engine's own port."""
    waiting: ClassVar[Gauge]
    running: ClassVar[Gauge | None] = None
    kv_use: ClassVar[Gauge | None] = None
    optional: ClassVar[tuple[Gauge, ...]] = ()
    """What such an engine need not have: not missed."""
    remedy: ClassVar[str] = ""
    """What to do at the engine where the names are missing."""

    def __init__(self, session: aiohttp.ClientSession, url: str, metrics_url: str = "") -> None:
        super().__init__(session, url, metrics_url)
        port = self.metrics_port
        base = url if port is None else f"{url.rpartition(':')[0]}:{port}"
        self.metrics_url = metrics_url or base + self.metrics_path
        self._complained = ""

    @classmethod
    def gauges(cls) -> tuple[Gauge, ...]:
        """All that is wanted of the page."""
        return tuple(gauge for gauge in (cls.waiting, cls.running, cls.kv_use) if gauge)

    async def load(self) -> Reading:
        """What the page says; unknown, and said once in the log, when it lacks the names."""
        status, found = await self.figures()
        self._complain(status, found)
        if self.waiting not in found:
            return UNKNOWN
        if self.running is None:
            return Reading(int(sum(found[self.waiting])), None, self._cache(found))
        if self.running not in found:
            return UNKNOWN
        return Reading(int(sum(found[self.waiting])), int(sum(found[self.running])), self._cache(found))

    async def figures(self) -> tuple[int, dict[Gauge, list[float]]]:
        """The page's status, and the wanted gauges that it has."""
        status, body = await page(self._session, self.metrics_url)
        return status, read(body.decode("utf-8", "replace"), self.gauges()) if status == 200 else {}

    def _cache(self, found: dict[Gauge, list[float]]) -> float:
        shares = found.get(self.kv_use, []) if self.kv_use else []
        return min(max(shares, default=0.0), 1.0)

    def _complain(self, status: int, found: dict[Gauge, list[float]]) -> None:
        missing = ", ".join(
            name for name, _ in (gauge for gauge in self.gauges() if gauge not in (*found, *self.optional))
        )
        if missing and missing != self._complained:
            what = f"%s (status %s) lacks %s: that part of its load is unknown{self.remedy and ': '}{self.remedy}"
            log.warning(what, self.metrics_url, status, missing)
        self._complained = missing


def read(text: str, gauges: tuple[Gauge, ...]) -> dict[Gauge, list[float]]:
    """The wanted gauges of a page: gauge -> the values of its series. Malformed lines and nonsense are left out."""
    values: dict[Gauge, list[float]] = {}
    names = tuple({name for name, _ in gauges})
    for line in text.splitlines():
        if not line.startswith(names):
            continue
        try:
            samples = [sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples]
        except ValueError:
            log.debug("not a metrics line: %.200s", line)
            continue
        for sample in samples:
            if not (math.isfinite(sample.value) and sample.value >= 0):
                continue
            for gauge in gauges:
                if sample.name == gauge[0] and set(gauge[1]) <= sample.labels.items():
                    values.setdefault(gauge, []).append(sample.value)
    return values
