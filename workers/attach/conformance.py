"""`isochrone worker conformance`: does an engine show what its adapter reads, and answer as gateways expect?

Run against one's own engine before it is attached. Every check is a row: what was asked, whether it holds, what was
found. What an engine may lack is reported and does not fail it; what the adapter reads and clients need does.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import msgspec

from policies.records import Rejected
from policies.reports import REPORT_FORMAT, REPORT_FORMAT_HEADER, REPORT_HEADER, decode_report
from workers.attach import Adapter, body_of, reason
from workers.attach.events import DONE, Events
from workers.attach.metered import Metered

ASK_SECONDS = 60.0
"""For a few tokens; the first request of a fresh engine may compile."""
CHAT = "/v1/chat/completions"
FAULTS = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Verdict(enum.Enum):
    """Of one check."""

    HOLDS = "ok"
    LACKS = "lacks"
    """Something that an engine need not have."""
    FAILS = "FAIL"


class Row(NamedTuple):
    """One line of the table."""

    check: str
    verdict: Verdict
    found: str


Check = Callable[[], Awaitable[Row]]


class Conformance:
    """The checks of one engine. `model` is the engine's own name for it; empty: the first that it lists."""

    def __init__(self, session: aiohttp.ClientSession, url: str, adapter: Adapter, model: str = "") -> None:
        self._session = session
        self._url = url
        self._adapter = adapter
        self._model = model

    async def rows(self) -> list[Row]:
        """All checks, in order; one that cannot be made fails with the reason."""
        checks: list[tuple[str, Check]] = [
            ("health", self.health), ("models", self.models), ("load", self.load), ("answer", self.answer),
            ("stream", self.stream),
        ]  # fmt: skip
        found = []
        for name, check in checks:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    found.append(await check())
            except FAULTS as error:
                found.append(Row(name, Verdict.FAILS, reason(error)))
        return [*found, await self.report()]

    async def health(self) -> Row:
        """What gateways probe."""
        well = await self._adapter.healthy()
        path = self._adapter.health_path
        return Row("health", held(well), f"{path} says {'well' if well else 'sick'}")

    async def models(self) -> Row:
        """What is registered without --model."""
        try:
            names = await self._adapter.models()
        except ValueError as error:
            if self._model:
                return Row("models", Verdict.LACKS, f"{error}: name them with --model")
            raise
        self._model = self._model or (names[0] if names else "")
        return Row("models", held(bool(self._model)), ", ".join(names) or "none: name one with --model")

    async def load(self) -> Row:
        """The names of the gauges."""
        if not isinstance(self._adapter, Metered):
            return Row("load", Verdict.LACKS, "such an engine tells none: gateways count, or attach with --proxy")
        status, found = await self._adapter.figures()
        wanted = [gauge for gauge in self._adapter.gauges() if gauge not in self._adapter.optional]
        missing = [name for name, _ in wanted if not any(name == has for has, _ in found)]
        if missing:
            return Row(
                "load", Verdict.FAILS, f"{self._adapter.metrics_url} (status {status}) lacks {', '.join(missing)}"
            )
        said = ", ".join(f"{name}={sum(values):g}" for (name, _), values in found.items())
        return Row("load", Verdict.HOLDS, said or "nothing of what it need not tell")

    async def answer(self) -> Row:
        """A whole answer, with its usage."""
        reply, body = await self._ask(stream=False)
        usage = usage_of(body)
        tokens = usage.get("completion_tokens")
        if reply.status != 200 or not isinstance(tokens, int):
            return Row("answer", Verdict.FAILS, f"{CHAT} answered {reply.status}, usage {usage or 'missing'}")
        return Row("answer", Verdict.HOLDS, f"{tokens} tokens, usage as OpenAI's")

    async def stream(self) -> Row:
        """Events, a usage among them, and an end."""
        reply, body = await self._ask(stream=True)
        if reply.status != 200 or reply.content_type != "text/event-stream":
            return Row("stream", Verdict.FAILS, f"{CHAT} answered {reply.status} {reply.content_type}")
        events = list(Events().feed(body))
        if not events or not DONE.match(events[-1]):
            return Row("stream", Verdict.FAILS, f"{len(events)} events, the last is not data: [DONE]")
        told = [event for event in events if usage_of(event.partition(b"data:")[2])]
        if not told:
            return Row("stream", Verdict.LACKS, f"{len(events)} events, none with usage: tokens are counted by events")
        return Row("stream", Verdict.HOLDS, f"{len(events)} events, usage before the end")

    async def report(self) -> Row:
        """The load on an answer (ORCA)."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                reply, _ = await self._ask(stream=False)
        except FAULTS as error:
            return Row("load report", Verdict.LACKS, reason(error))
        said = reply.headers.get(REPORT_HEADER, "")
        if not said:
            return Row("load report", Verdict.LACKS, f"no {REPORT_HEADER}: its load is known by heartbeats only")
        report = decode_report(said.encode())
        if isinstance(report, Rejected) or report.waiting is None:
            return Row("load report", Verdict.FAILS, f"{REPORT_HEADER}: {said:.80} does not tell what waits")
        return Row("load report", Verdict.HOLDS, f"waiting {report.waiting:g}")

    async def _ask(self, *, stream: bool) -> tuple[aiohttp.ClientResponse, bytes]:
        body: dict[str, Any] = {"model": self._model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {REPORT_FORMAT_HEADER: REPORT_FORMAT}
        async with self._session.post(self._url + CHAT, json=body, headers=headers, allow_redirects=False) as reply:
            return reply, await body_of(reply)


def held(holds: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.FAILS


def usage_of(body: bytes) -> dict[str, Any]:
    """The usage in an answer or an event's data; empty where there is none."""
    try:
        said = msgspec.json.decode(body.strip(), type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}
    usage = said.get("usage")
    return usage if isinstance(usage, dict) else {}
