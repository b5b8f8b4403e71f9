"""Text Generation Inference: health from /health, load from /metrics.

Names as of router/src/server.rs and infer; its project is in maintenance mode since January 2026.
"""

from __future__ import annotations

from workers.attach.metered import Metered


class Tgi(Metered):
    """`--engine tgi`."""

    health_path = "/health"
    waiting = ("tgi_queue_size", ())
    running = ("tgi_batch_current_size", ())
