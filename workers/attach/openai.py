"""Any engine with OpenAI's API and nothing else: healthy while it lists models, its load unknown.

Gateways then use their own in-flight counts. See sidecar.py for what drives it.
"""

from __future__ import annotations

import aiohttp
import msgspec

from workers.attach import UNKNOWN, Reading, page


class _Model(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Model]


class OpenAI:
    """`--engine openai`."""

    health_path = "/v1/models"

    def __init__(self, session: aiohttp.ClientSession, url: str, metrics_url: str = "") -> None:
        self._session = session
        self._url = url

    async def healthy(self) -> bool:
        status, _ = await page(self._session, self._url + self.health_path)
        return status == 200

    async def load(self) -> Reading:
        return UNKNOWN

    async def models(self) -> list[str]:
        """The names the engine lists. Raises ValueError when its reply is not a listing."""
        status, body = await page(self._session, self._url + "/v1/models")
        if status != 200:
            raise ValueError(f"/v1/models answered {status}")
        try:
            return [model.id for model in msgspec.json.decode(body, type=_Listing).data]
        except msgspec.MsgspecError as error:
            raise ValueError(f"/v1/models is not a list of models: {error}") from error
