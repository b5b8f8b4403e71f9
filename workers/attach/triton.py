"""NVIDIA Triton: health from /v2/health/ready, its queue from the pages of port 8002, models from its index.

Names as of docs/user_guide/metrics.md of 26.09. What runs has no gauge; requests of gateways count by themselves.
"""

from __future__ import annotations

import msgspec

from workers.attach import body_of
from workers.attach.oip import OpenInference


class _Model(msgspec.Struct):
    """An entry of the index; unloaded models have a state of their own."""

    name: str
    state: str = "READY"


class Triton(OpenInference):
    """`--engine triton`."""

    metrics_port = 8002
    waiting = ("nv_inference_pending_request_count", ())
    kv_use = ("nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", "fraction"),))
    optional = (kv_use,)
    remedy = "give its page with --metrics-url, and start tritonserver with --allow-metrics=true"

    async def models(self) -> list[str]:
        """What is loaded. Raises ValueError when the reply is no index."""
        async with self._session.post(self._url + "/v2/repository/index", json={"ready": True}) as response:
            status, body = response.status, await body_of(response)
        if status != 200:
            raise ValueError(f"/v2/repository/index answered {status}")
        try:
            return [model.name for model in msgspec.json.decode(body, type=list[_Model]) if model.state == "READY"]
        except msgspec.MsgspecError as error:
            raise ValueError(f"/v2/repository/index is not a list of models: {error}") from error
