"""vLLM: health from /health, load from three gauges of /metrics.

Names as of vLLM 0.33 (vllm/v1/metrics/loggers.py), one series for each data-parallel rank; its old
vllm:gpu_cache_usage_perc is gone.
"""

from __future__ import annotations

from workers.attach.metered import Metered


class Vllm(Metered):
    """`--engine vllm`."""

    health_path = "/health"
    waiting = ("vllm:num_requests_waiting", ())
    running = ("vllm:num_requests_running", ())
    kv_use = ("vllm:kv_cache_usage_perc", ())
