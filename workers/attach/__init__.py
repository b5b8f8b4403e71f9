"""Existing engines, registered unchanged: one adapter per kind of engine, all driven by sidecar.py.

An adapter only knows how to ask its engine three things; it keeps no state and decides nothing. To add an engine,
write its adapter and add its line to `ENGINES`.
"""

from __future__ import annotations

import importlib
import os
from typing import NamedTuple, Protocol, cast

import aiohttp

ENGINES = {
    "openai": "workers.attach.openai:OpenAI",
    "vllm": "workers.attach.vllm:Vllm",
    "sglang": "workers.attach.sglang:SGLang",
    "llamacpp": "workers.attach.llamacpp:LlamaCpp",
    "tgi": "workers.attach.tgi:Tgi",
    "triton": "workers.attach.triton:Triton",
    "kserve": "workers.attach.kserve:KServe",
    "ray": "workers.attach.ray:RayServe",
    "transformers": "workers.attach.transformers:Transformers",
}
"""Engine name -> adapter, imported when asked for."""

PAGE_LIMIT = 8 << 20
"""Largest page read from an engine; vLLM's metrics are some hundred kilobytes."""


class Reading(NamedTuple):
    """What an engine says about its load; None where it cannot say."""

    waiting: int | None = None
    running: int | None = None
    kv_use: float = 0.0


UNKNOWN = Reading()


class Adapter(Protocol):
    """How to ask one kind of engine. Calls raise aiohttp.ClientError or OSError when it does not answer."""

    health_path: str
    """What gateways probe: answered without accelerator time."""

    async def healthy(self) -> bool: ...
    async def load(self) -> Reading: ...
    async def models(self) -> list[str]: ...


class Factory(Protocol):
    def __call__(self, session: aiohttp.ClientSession, url: str, metrics_url: str = "") -> Adapter: ...


def adapter(engine: str) -> Factory:
    """The adapter's class. Raises KeyError for an engine that is not in `ENGINES`."""
    module, _, name = ENGINES[engine].partition(":")
    return cast(Factory, getattr(importlib.import_module(module), name))


def reason(error: BaseException) -> str:
    """Why an engine could not be asked, in words for a person."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or "no answer in time"


async def page(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    """GET a page: its status and at most PAGE_LIMIT bytes. Redirects are not followed."""
    async with session.get(url, allow_redirects=False) as response:
        return response.status, await body_of(response)


async def body_of(response: aiohttp.ClientResponse) -> bytes:
    """A body. Raises ClientPayloadError where it is longer than PAGE_LIMIT."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > PAGE_LIMIT:
            raise aiohttp.ClientPayloadError(f"{response.url}: more than {PAGE_LIMIT} bytes")
    return bytes(body)
