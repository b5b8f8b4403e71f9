"""vLLM: health from /health, load from three gauges of /metrics.

Names as of vLLM 0.33; data-parallel ranks are one series each: waiting and running add up, of
the cache use the fullest rank counts. Only the wanted lines are parsed, the page's histograms are hundreds of
kilobytes.
"""

from __future__ import annotations

import logging
import math

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from workers.attach import UNKNOWN, Reading, page
from workers.attach.openai import OpenAI

log = logging.getLogger(__name__)

WAITING = "vllm:num_requests_waiting"
RUNNING = "vllm:num_requests_running"
KV_USE = "vllm:kv_cache_usage_perc"
WANTED = (WAITING, RUNNING, KV_USE)


class Vllm(OpenAI):
    """`--engine vllm`."""

    health_path = "/health"

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(session, url)
        self._complained = ""

    async def load(self) -> Reading:
        """What /metrics says; unknown, and said once in the log, when it lacks the names."""
        status, body = await page(self._session, self._url + "/metrics")
        found = read(body.decode("utf-8", "replace")) if status == 200 else {}
        missing = ", ".join(name for name in WANTED if name not in found)
        if missing and missing != self._complained:
            log.warning("%s/metrics (status %s) lacks %s: that part of its load is unknown", self._url, status, missing)
        self._complained = missing
        if WAITING not in found or RUNNING not in found:
            return UNKNOWN
        kv_use = max(found.get(KV_USE, [0.0]))
        return Reading(int(sum(found[WAITING])), int(sum(found[RUNNING])), min(max(kv_use, 0.0), 1.0))


def read(text: str) -> dict[str, list[float]]:
    """The wanted gauges of a metrics page: name -> the values of its series. Malformed lines are left out."""
    values: dict[str, list[float]] = {}
    for line in text.splitlines():
        if not line.startswith(WANTED):
            continue
        try:
            samples = [sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples]
        except ValueError:
            log.debug("not a metrics line: %.200s", line)
            continue
        for sample in samples:
            if sample.name in WANTED and math.isfinite(sample.value) and sample.value >= 0:
                values.setdefault(sample.name, []).append(sample.value)
    return values
