"""`isochrone demo --once`: one mixed workload through the official openai package, under three policies in turn.

The fleet and the requests are the same for all three; each policy gets a gateway of its own. Real times are this
client's wall clock, deadlines included; costs are the gateway's bill from what the workers reported (accelerator
seconds times price, plus egress), read back from `/admin/explain/REQUEST_ID`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import aiohttp
import msgspec
import openai

from loadtests.arrivals import Arrivals, Process
from loadtests.embedded import Gateway
from loadtests.live.client import digits_body
from loadtests.report import Sent
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand, Planned, Surface, prose

OURS: Final = "cheapest_in_deadline"
OTHERS: Final = ("nearest", "lowest_cost")
SEED: Final = 20
WARM_UPS: Final = 2
"""Of each kind, sent before the clock starts: connections, caches and code paths are then warm for every policy."""
RATE: Final = 8.0
"""A second: about a third of what two cores can carry with clients, network and all workers on them."""
TIMEOUT: Final = 30.0

_DIGIT = functools.partial(Class, surface=Surface.INFER, model="digits")
_EMBEDDING = functools.partial(Class, surface=Surface.EMBEDDING, model="minilm")
_CHAT = functools.partial(Class, surface=Surface.CHAT, model="tinychat")
_STREAM = functools.partial(Class, surface=Surface.CHAT_STREAM, model="tinychat")
_COMPLETION = functools.partial(Class, surface=Surface.COMPLETION, model="tinychat")

# From europe-west4 the other regions are 102 and 223 ms away, so a deadline of 90 ms can only be met at home, one of
# 190 ms also from us-central1, and one of 700 ms from anywhere. The last kinds do not care at all.
MIX: Final = Demand(
    classes=(
        _DIGIT(name="digit, now", total_s=0.075, share=2),
        _STREAM(name="chat stream, now", total_s=0.090, share=2),
        _EMBEDDING(name="embedding, now", total_s=0.090),
        _CHAT(name="chat, soon", total_s=0.190),
        _COMPLETION(name="completion, soon", total_s=0.190),
        _EMBEDDING(name="embedding, soon", total_s=0.190, items=(1, 2)),
        _CHAT(name="chat, relaxed", total_s=0.700, output_tokens=(24, 40), share=2),
        _EMBEDDING(name="embeddings, relaxed", total_s=0.700, items=(2, 4), share=2),
        _EMBEDDING(name="embedding, exact", total_s=0.700, min_quality=1.0),
        _STREAM(name="chat stream, any time", output_tokens=(24, 40), share=2),
        _EMBEDDING(name="embeddings, any time", items=(4, 8), share=2),
    ),
    sizes=Ranges(prompt_tokens=(8, 24), output_tokens=(8, 24)),
    arrivals=Arrivals(process=Process.EVEN),
)


def lasts(requests: int) -> float:
    """Seconds in which so many are sent."""
    return requests / RATE


class Answer(msgspec.Struct):
    """What the client library gave us of one request."""

    headers: Mapping[str, str] = {}
    status: int = 200
    error: str = ""
    first_byte: float | None = None
    """When the first token came, on the monotonic clock."""


class Showcase:
    """A client of one gateway."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self._gateway = gateway
        self._session = session
        # No repeats by the library: a failure must show.
        self._openai = openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key="none-needed-on-loopback", max_retries=0, timeout=TIMEOUT
        )

    async def run(self, plan: list[Planned], done: Callable[[], None]) -> list[Sent]:
        """Warm up, then send the plan at its times."""
        for _ in range(WARM_UPS):
            for kind in {planned.kind.name: planned for planned in plan}.values():
                await self._send(kind)
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._at(start, planned, done)) for planned in plan]
        await self._openai.close()
        return [task.result() for task in tasks]

    async def _at(self, start: float, planned: Planned, done: Callable[[], None]) -> Sent:
        await asyncio.sleep(max(0.0, start + planned.at - time.monotonic()))
        sent = await self._send(planned)
        done()
        return sent

    async def _send(self, planned: Planned) -> Sent:
        began = time.monotonic()
        try:
            answer = await self._call(planned)
        except openai.APIStatusError as error:
            answer = Answer(error.response.headers, error.status_code, named(error))
        except (openai.APIError, aiohttp.ClientError, TimeoutError) as error:
            answer = Answer(status=0, error=type(error).__name__)
        took = time.monotonic() - began
        bill = await self._explained(answer.headers.get("x-request-id", ""))
        return sent_from(planned, answer, took, began, bill)

    async def _call(self, planned: Planned) -> Answer:
        match planned.kind.surface:
            case Surface.INFER:
                return await self._infer(planned)
            case Surface.EMBEDDING:
                texts = [prose(planned.prompt_tokens, planned.seed + item) for item in range(planned.items)]
                return await self._unary(
                    self._openai.embeddings.with_raw_response.create(
                        model=planned.kind.model, input=texts, extra_headers=asked(planned.kind)
                    )
                )
            case Surface.COMPLETION:
                return await self._unary(
                    self._openai.completions.with_raw_response.create(
                        model=planned.kind.model,
                        prompt=prose(planned.prompt_tokens, planned.seed),
                        max_tokens=planned.output_tokens,
                        extra_headers=asked(planned.kind),
                    )
                )
            case Surface.CHAT:
                return await self._unary(
                    self._openai.chat.completions.with_raw_response.create(
                        model=planned.kind.model,
                        messages=[{"role": "user", "content": prose(planned.prompt_tokens, planned.seed)}],
                        max_tokens=planned.output_tokens,
                        extra_headers=asked(planned.kind),
                    )
                )
            case Surface.CHAT_STREAM:
                return await self._stream(planned)

    async def _unary(self, call: Awaitable[Any]) -> Answer:
        raw = await call
        raw.parse()
        return Answer(raw.headers)

    async def _stream(self, planned: Planned) -> Answer:
        raw = await self._openai.chat.completions.with_raw_response.create(
            model=planned.kind.model,
            messages=[{"role": "user", "content": prose(planned.prompt_tokens, planned.seed)}],
            max_tokens=planned.output_tokens,
            stream=True,
            extra_headers=asked(planned.kind),
        )
        first = None
        try:
            async for _ in raw.parse():
                first = first if first is not None else time.monotonic()
        except openai.APIError as error:  # an error event: the answer had begun
            return Answer(raw.headers, raw.status_code, named(error), first)
        return Answer(raw.headers, first_byte=first)

    async def _infer(self, planned: Planned) -> Answer:
        url = f"{self._gateway.url}/v2/models/{planned.kind.model}/infer"
        body = msgspec.json.encode(digits_body(planned.items, planned.seed))
        headers = {"content-type": "application/json", **asked(planned.kind)}
        async with self._session.post(url, data=body, headers=headers) as reply:
            await reply.read()
            return Answer(reply.headers, reply.status, "" if reply.status == 200 else str(reply.status))

    async def _explained(self, request_id: str) -> dict[str, Any]:
        """What the gateway says of a request it answered; nothing when it has no such request."""
        url = f"{self._gateway.control}/admin/explain/{request_id}"
        async with self._session.get(url) as reply:
            return dict(await reply.json()) if reply.status == 200 else {}


def named(error: openai.APIError) -> str:
    """The gateway's code for an error, else the library's own name for it."""
    return error.code or type(error).__name__


def asked(kind: Class) -> dict[str, str]:
    """The headers that carry what a kind of request wants."""
    headers = {}
    if kind.total_s is not None:
        headers["x-deadline-ms"] = f"{kind.total_s * 1e3:.0f}"
    if kind.min_quality:
        headers["x-min-quality"] = f"{kind.min_quality:g}"
    return headers


def sent_from(planned: Planned, answer: Answer, took: float, began: float, bill: Mapping[str, Any]) -> Sent:
    """Put together what the client saw and what the gateway says of it."""
    headers, attempts = answer.headers, bill.get("attempts", [])
    eta = headers.get("x-route-eta-ms")
    billed = [attempt["actual"]["cost_usd"] for attempt in attempts if attempt["actual"] is not None]
    return Sent(
        number=planned.number,
        kind=planned.kind.name,
        ok=answer.status == 200 and not answer.error,
        took=took,
        first_byte=None if answer.first_byte is None else answer.first_byte - began,
        deadline=planned.kind.total_s,
        status=answer.status,
        error=answer.error,
        request_id=headers.get("x-request-id", ""),
        worker=headers.get("x-route-node", ""),
        region=headers.get("x-route-region", ""),
        variant=headers.get("x-route-variant", ""),
        predicted=float(eta) / 1e3 if eta else None,
        cost=sum(known) if (known := [cost for cost in billed if cost is not None]) else None,
        attempts=int(headers.get("x-route-attempts", "1")),
    )


async def showcase(gateway: Gateway, requests: int, done: Callable[[], None] = lambda: None) -> list[Sent]:
    """Send the mixed workload through one gateway."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:
        return await Showcase(gateway, session).run(MIX.plan(RATE, lasts(requests), seed=SEED), done)
