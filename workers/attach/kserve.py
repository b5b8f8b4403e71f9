"""KServe's model server: health from /v2/health/ready, models from /v2/models.

As of KServe 0.21 its own /metrics has no gauge of its queue; its runtime for language models adds vLLM's, and then
those count. Of others the load is unknown: `--proxy` counts it.
"""

from __future__ import annotations

import msgspec

from workers.attach import page
from workers.attach.oip import OpenInference
from workers.attach.vllm import Vllm


class _Listing(msgspec.Struct):
    models: list[str]


class KServe(OpenInference):
    """`--engine kserve`."""

    waiting, running, kv_use = Vllm.waiting, Vllm.running, Vllm.kv_use
    optional = (waiting, running, kv_use)

    async def models(self) -> list[str]:
        """What it serves. Raises ValueError when the reply is not a listing."""
        status, body = await page(self._session, self._url + "/v2/models")
        if status != 200:
            raise ValueError(f"/v2/models answered {status}")
        try:
            return msgspec.json.decode(body, type=_Listing).models
        except msgspec.MsgspecError as error:
            raise ValueError(f"/v2/models is not a list of models: {error}") from error
