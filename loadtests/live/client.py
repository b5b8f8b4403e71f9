"""An open-loop HTTP/1.1 load generator: requests leave when the plan says, whatever became of earlier ones.

A request's time counts from the moment it was meant to leave, so a stalled server cannot hide its queue behind a
client that waits for it (coordinated omission). Raw sockets and llhttp: the client must cost less than what it
measures.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from typing import cast

import httptools
import msgspec

from loadtests.report import Sent
from loadtests.workload import PROBABILITY, Planned, Surface, prompt

TIMEOUT = 60.0
"""Seconds after which a request without a deadline is given up."""
DEADLINE_GRACE = 5.0
"""Seconds past its deadline for which a late answer is still awaited, to report how late it was."""


class Message(msgspec.Struct, frozen=True):
    """One request's bytes."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, host: str) -> bytes:
        fields = (("host", host), ("content-type", "application/json"), ("content-length", str(len(self.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in (*fields, *self.headers))
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


def message(planned: Planned) -> Message:
    """The request that a plan's line stands for. It asks for the decision, so that cost and worker can be reported."""
    kind = planned.kind
    headers = [("x-route-explain", "1")]
    if kind.total_s is not None:
        headers.append(("x-deadline-ms", f"{kind.total_s * 1e3:.0f}"))
    if kind.first_token_s is not None:
        headers.append(("x-slo-ttft-ms", f"{kind.first_token_s * 1e3:.0f}"))
    if kind.token_interval_s is not None:
        headers.append(("x-slo-tpot-ms", f"{kind.token_interval_s * 1e3:g}"))
    if kind.probability != PROBABILITY:
        headers.append(("x-deadline-probability", f"{kind.probability:g}"))
    if kind.min_quality:
        headers.append(("x-min-quality", f"{kind.min_quality:g}"))
    if planned.session:
        headers.append(("x-session-id", planned.session))
    path, body = _content(planned)
    return Message(path, msgspec.json.encode(body), tuple(headers))


def _content(planned: Planned) -> tuple[str, dict[str, object]]:
    model, text = planned.kind.model, prompt(planned)
    match planned.kind.surface:
        case Surface.CHAT | Surface.CHAT_STREAM:
            body: dict[str, object] = {
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": planned.output_tokens,
                "stream": planned.kind.surface is Surface.CHAT_STREAM,
            }
            return "/v1/chat/completions", body
        case Surface.COMPLETION:
            return "/v1/completions", {"model": model, "prompt": text, "max_tokens": planned.output_tokens}
        case Surface.EMBEDDING:
            texts = [prompt(planned, item) for item in range(planned.items)]
            return "/v1/embeddings", {"model": model, "input": texts}
        case Surface.INFER:
            return f"/v2/models/{model}/infer", digits_body(planned.items, planned.seed)


def digits_body(items: int, seed: int) -> dict[str, object]:
    """Images of 8 by 8 grey values between 0 and 16, as scikit-learn's digits are."""
    rng = random.Random(seed)
    pixels = [float(rng.randint(0, 16)) for _ in range(64 * items)]
    return {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [items, 64], "data": pixels}]}


class Reply:
    """What came back so far."""

    __slots__ = ("body", "error", "first_byte", "headers", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.first_byte: float | None = None
        self.error = ""

    @property
    def complete_stream(self) -> bool:
        """Whether a stream ended as it should: with `[DONE]`, and no error event before it."""
        return self.body.rstrip().endswith(b"data: [DONE]") and b'data: {"error"' not in self.body


class Connection(asyncio.Protocol):
    """One connection with at most one request on it; `done` is called when its reply ended or it was lost."""

    def __init__(self, lost: Callable[[Connection], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self._lost = lost
        self._reply: Reply | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing() and self._waiter is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> asyncio.Future[Reply]:
        assert self.transport is not None
        self._reply = Reply()
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._waiter

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"bad reply: {error}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("connection lost")
        self._lost(self)

    # llhttp's callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        if self._reply is not None:
            if self._reply.first_byte is None:
                self._reply.first_byte = time.monotonic()
            self._reply.body += data

    def on_message_complete(self) -> None:
        if self._reply is None or self._parser.get_status_code() < 200:
            return
        self._reply.status = self._parser.get_status_code()
        keep = self._parser.should_keep_alive()
        self._end("")
        if not keep:
            self.abort()

    def _end(self, error: str) -> None:
        waiter, reply = self._waiter, self._reply
        self._waiter = self._reply = None
        if waiter is not None and reply is not None and not waiter.done():
            reply.error = error
            waiter.set_result(reply)


class Client:
    """Connections to one gateway, as many as are needed at once."""

    def __init__(
        self, host: str, port: int, *, key: str = "", source: str | None = None,
        write: Callable[[Planned], Message] = message,
    ) -> None:  # fmt: skip
        self.host = host
        self.port = port
        self._key = key
        self._source = source
        self._write = write
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    async def run(self, plan: Iterable[Planned]) -> list[Sent]:
        """Send every request of a plan at its time; returns when the last reply is in."""
        start = time.monotonic()
        tasks: list[asyncio.Task[Sent]] = []
        async with asyncio.TaskGroup() as group:
            for planned in plan:
                wait = start + planned.at - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                tasks.append(group.create_task(self.send(planned, start + planned.at)))
        return [task.result() for task in tasks]

    async def send(self, planned: Planned, intended: float) -> Sent:
        """Send one request; `intended` is when it was meant to leave."""
        kind = planned.kind
        data = self._write(planned)
        if self._key:
            data = msgspec.structs.replace(data, headers=(*data.headers, ("authorization", f"Bearer {self._key}")))
        limit = TIMEOUT if kind.total_s is None else kind.total_s + DEADLINE_GRACE
        reply, connection = Reply(), None
        try:
            async with asyncio.timeout(limit):
                connection = await self._connection()
                reply = await connection.send(data.encode(f"{self.host}:{self.port}"))
        except TimeoutError:
            reply.error = f"no answer in {limit:.0f} s"
            if connection is not None:
                connection.abort()
        except OSError as error:
            reply.error = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        took = time.monotonic() - intended
        if connection is not None and connection.usable:
            self._idle.append(connection)
        return self._sent(planned, reply, took, intended)

    def _sent(self, planned: Planned, reply: Reply, took: float, intended: float) -> Sent:
        kind, headers = planned.kind, reply.headers
        ok = reply.status == 200 and not reply.error
        if ok and kind.surface is Surface.CHAT_STREAM:
            ok = reply.complete_stream
        eta, cost = headers.get("x-route-eta-ms"), headers.get("x-route-cost-usd")
        return Sent(
            number=planned.number,
            kind=kind.name,
            ok=ok,
            took=took,
            first_byte=None if reply.first_byte is None else reply.first_byte - intended,
            deadline=kind.total_s,
            first_deadline=kind.first_token_s,
            status=reply.status,
            error=reply.error or ("" if ok else _code(reply)),
            request_id=headers.get("x-request-id", ""),
            worker=headers.get("x-route-node", ""),
            region=headers.get("x-route-region", ""),
            variant=headers.get("x-route-variant", ""),
            predicted=float(eta) / 1e3 if eta else None,
            cost=float(cost) if cost and ok else None,
            attempts=int(headers.get("x-route-attempts", "1")),
        )

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        local = (self._source, 0) if self._source else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._all.discard), self.host, self.port, local_addr=local
        )
        self._all.add(connection)
        return connection

    def close(self) -> None:
        for connection in tuple(self._all):
            connection.abort()


class _Error(msgspec.Struct):
    code: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Error


def _code(reply: Reply) -> str:
    """The stable error code of a refusal, else its status."""
    try:
        return msgspec.json.decode(bytes(reply.body), type=_ErrorBody).error.code or str(reply.status)
    except msgspec.MsgspecError:
        return "incomplete stream" if reply.status == 200 else str(reply.status)
