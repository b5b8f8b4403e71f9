"""SGLang: health from /health, load from /v1/loads, which needs no flag (its /metrics needs --enable-metrics).

Names as of SGLang 0.5.23 (sglang/srt/entrypoints/v1_loads.py): one series for each data-parallel rank.
"""

from __future__ import annotations

from workers.attach.metered import Metered


class SGLang(Metered):
    """`--engine sglang`."""

    health_path = "/health"
    metrics_path = "/v1/loads?include=core&format=prometheus"
    waiting = ("sglang_num_waiting_reqs", ())
    running = ("sglang_num_running_reqs", ())
    kv_use = ("sglang_token_usage", ())
