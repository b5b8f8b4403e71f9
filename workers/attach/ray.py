"""Ray Serve: health from its proxy's /-/healthz, load from the metrics that a Ray node exports on a port of its own.

Names as of Ray 2.60 (ray/serve/_private/router.py, replica.py), with the prefix that the export adds. The port is 8080
where `ray start --metrics-export-port=8080` says so, otherwise a free one: give the page with --metrics-url.
It is brought up to date every some seconds only: a queue that is gone by then was never seen.
"""

from __future__ import annotations

from workers.attach.metered import Metered


class RayServe(Metered):
    """`--engine ray`."""

    health_path = "/-/healthz"
    metrics_port = 8080
    waiting = ("ray_serve_deployment_queued_queries", ())
    running = ("ray_serve_replica_processing_queries", ())
    remedy = "give its page with --metrics-url"
