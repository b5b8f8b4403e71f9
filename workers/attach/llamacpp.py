"""llama.cpp's server: health from /health (503 while it loads), load from /metrics, which it shows with --metrics.

Names as of tools/server/README.md of 2026; its gauge of the cache is gone. The server of llama-cpp-python has none of
these pages: that is `--engine openai`.
"""

from __future__ import annotations

from workers.attach.metered import Metered


class LlamaCpp(Metered):
    """`--engine llamacpp`."""

    health_path = "/health"
    waiting = ("llamacpp:requests_deferred", ())
    running = ("llamacpp:requests_processing", ())
    remedy = "start llama-server with --metrics"
