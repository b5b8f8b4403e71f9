"""Engines that speak the Open Inference Protocol v2: health from /v2/health/ready.

The protocol itself tells no load and lists no models; triton.py and kserve.py know where theirs do.
"""

from __future__ import annotations

from workers.attach import page
from workers.attach.metered import Metered


class OpenInference(Metered):
    """What Triton and KServe share."""

    health_path = "/v2/health/ready"

    async def healthy(self) -> bool:
        """By the status, and by the body `{"ready": false}` where there is one."""
        status, body = await page(self._session, self._url + self.health_path)
        return status == 200 and b"false" not in body.lower()
