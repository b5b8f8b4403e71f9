"""What an emulated worker is and does: a service curve instead of a model, an execution log, faults on command.

It answers the OpenAI paths and any other POST, shows a vLLM-like metrics page, and keeps a log of what it did to
whom (`GET /control/log`); `POST /control` changes its fault, its speed, its price and its reported queue.
`worker.py` makes a process of it.
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from loadtests.live.accelerator import Accelerator, Size
from loadtests.live.replies import Asked, chunk, event, reply
from loadtests.simulator.machine import Herd, Service
from policies import records, reports

PROMPT_HEADER = "x-emulated-prompt"
OUTPUT_HEADER = "x-emulated-output"
NOISE_HEADER = "x-emulated-noise"
"""What a request shall cost a worker with an accelerator: tokens, tokens, and what its times are multiplied with. The
gateway passes them on unread, as it does any field of the client's."""
LOG_LENGTH = 100_000


class Fault(enum.Enum):
    """What is wrong with the replies. Dead and frozen processes are made by signals."""

    NONE = "none"
    ERROR = "error"
    """Every reply is a 500."""
    REFUSE = "refuse"
    """503, not executed."""
    GARBAGE = "garbage"
    """Bytes that are no HTTP."""
    GZIP = "gzip"
    """A compressed reply nobody asked for: 64 MiB of zeros in 64 KiB."""
    BLACK_HOLE = "black_hole"
    """Never an answer."""
    STALL = "stall"
    """Never an answer either, but its place in the batch is taken until somebody calls it off."""
    CUT = "cut"
    """The connection closes: before a unary reply, in the middle of a stream."""


class Control(msgspec.Struct, forbid_unknown_fields=True):
    """What to change from now on; what is left out stays."""

    fault: Fault | None = None
    slow: float | None = None
    """Factor on every service time."""
    queue: int | None = None
    """Reported as waiting, whatever really waits; -1 reports the truth again."""
    usd_per_hour: float | None = None
    """Registers anew at this price."""
    die: bool = False
    """SIGKILL itself."""
    herd_s: float | None = None
    """Measures from now on how much comes within so many seconds (GET /control/herd)."""


class Execution(msgspec.Struct):
    """One request as it was executed here."""

    request_id: str
    path: str
    stream: bool
    deadline_ms: float | None
    started: float
    """Unix time."""
    hedge: str = ""
    """What ties it to the other of a hedged pair."""
    ended: float = 0.0
    end: str = "running"
    """done, cancelled, refused, failed, running"""


class Emulated:
    """The state of one emulated worker. With an accelerator it serves by the simulator's model, not by the curve."""

    def __init__(
        self, worker: records.Worker, accelerator: Accelerator | None = None,
        heartbeat: float = records.HEARTBEAT_SECONDS,
    ) -> None:  # fmt: skip
        """`heartbeat`: seconds between its load records."""
        self.worker = worker
        self.accelerator = accelerator
        self.heartbeat = heartbeat
        self.herd: Herd | None = None
        self.curve = worker.endpoints[0].curve
        self.log: deque[Execution] = deque(maxlen=LOG_LENGTH)
        self.fault = Fault.NONE
        self.slow = 1.0
        self.queue = -1
        self.waiting = 0
        self.running = 0
        self.changed = asyncio.Event()
        self._slots = asyncio.Semaphore(worker.endpoints[0].max_batch)
        self.accepted = 0
        """Requests taken since it started."""
        self._started = time.monotonic()
        self._beat = 0

    def load(self) -> records.Load:
        self._beat += 1
        accelerator = self.accelerator
        if accelerator is not None:
            return records.Load(
                worker=self.worker.id, boot=self.worker.boot, seq=self._beat, waiting=accelerator.waiting,
                running=accelerator.running, backlog=accelerator.backlog(), arrived=self.accepted,
            )  # fmt: skip
        waiting = self.waiting if self.queue < 0 else self.queue
        return records.Load(
            worker=self.worker.id, boot=self.worker.boot, seq=self._beat, waiting=waiting, running=self.running,
            arrived=self.accepted,
        )  # fmt: skip

    def report(self, leaving: int = 0) -> str:
        """The load as an answer carries it; of those running, `leaving` are through."""
        load = self.load()
        running = (load.running or 0) - leaving
        slots = self.worker.endpoints[0].max_batch
        rate = self.accepted / max(1e-3, time.monotonic() - self._started)
        load = msgspec.structs.replace(load, running=running)
        return reports.encode_report(load, ((load.waiting or 0) + running) / slots, rate)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a place in the batch; yields the seconds waited."""
        arrived = time.monotonic()
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield time.monotonic() - arrived
        finally:
            self.running -= 1
            self._slots.release()

    def apply(self, control: Control) -> None:
        if control.fault is not None:
            self.fault = control.fault
        if control.slow is not None:
            self.slow = control.slow
        if control.queue is not None:
            self.queue = control.queue
        if control.usd_per_hour is not None:
            self.worker = msgspec.structs.replace(self.worker, price=records.MarginalPrice(control.usd_per_hour))
        if control.herd_s is not None:
            self.herd = Herd(control.herd_s, time.monotonic())
        self.changed.set()
        if control.die:
            os.kill(os.getpid(), signal.SIGKILL)


WORKER = web.AppKey("worker", Emulated)


def application(emulated: Emulated) -> web.Application:
    app = web.Application(client_max_size=64 << 20)
    app[WORKER] = emulated
    app.on_response_prepare.append(_say_load)
    app.add_routes(
        [
            web.get("/healthz", _health),
            web.get("/health", _health),
            web.get("/metrics", _metrics),
            web.get("/v1/models", _models),
            web.get("/control/log", _log),
            web.get("/control/herd", _herd),
            web.post("/control", _control),
            web.post("/{path:.*}", _execute),
        ]
    )
    return app


def _asks(request: web.Request) -> bool:
    return request.headers.get(reports.REPORT_FORMAT_HEADER, "").upper() == reports.REPORT_FORMAT


async def _say_load(request: web.Request, response: web.StreamResponse) -> None:
    if _asks(request):
        response.headers[reports.REPORT_HEADER] = request.app[WORKER].report()


def _end(request: web.Request, spent: records.Timings) -> bytes:
    """What stands at the end of a stream, whose request has its slot yet and needs it no more."""
    comments = records.TIMING_COMMENT + spent.encode().encode() + b"\n\n"
    if _asks(request):
        comments += reports.REPORT_COMMENT + request.app[WORKER].report(leaving=1).encode() + b"\n\n"
    return comments + b"data: [DONE]\n\n"


async def _health(request: web.Request) -> web.Response:
    return web.Response(body=records.encode_load(request.app[WORKER].load()), content_type="application/json")


async def _metrics(request: web.Request) -> web.Response:
    """The gauges a vLLM 0.33 shows, by their names in its /metrics page."""
    emulated = request.app[WORKER]
    load, model = emulated.load(), emulated.worker.endpoints[0].model
    labels = f'{{engine="0",model_name="{model}"}}'
    lines = [
        "# HELP vllm:num_requests_running Number of requests in model execution batches.",
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{labels} {float(load.running or 0)}",
        "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{labels} {float(load.waiting or 0)}",
        "# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        f"vllm:kv_cache_usage_perc{labels} 0.1",
    ]
    return web.Response(text="\n".join(lines) + "\n")


async def _models(request: web.Request) -> web.Response:
    names = [endpoint.served_name or endpoint.model for endpoint in request.app[WORKER].worker.endpoints]
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "emulated"} for name in names]
    return web.json_response({"object": "list", "data": data})


async def _log(request: web.Request) -> web.Response:
    body = msgspec.json.encode(list(request.app[WORKER].log))
    return web.Response(body=body, content_type="application/json")


async def _herd(request: web.Request) -> web.Response:
    """The work of its fullest window over what it can do in one, as the simulator has it."""
    herd = request.app[WORKER].herd
    return web.json_response({"worst": None if herd is None else herd.worst})


async def _control(request: web.Request) -> web.Response:
    try:
        request.app[WORKER].apply(msgspec.json.decode(await request.read(), type=Control))
    except msgspec.MsgspecError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.Response(status=204)


async def _execute(request: web.Request) -> web.StreamResponse:
    emulated = request.app[WORKER]
    raw = await request.read()
    try:
        asked = msgspec.json.decode(raw, type=Asked)
    except msgspec.MsgspecError as error:
        return web.json_response({"error": {"message": str(error), "type": "invalid_request_error"}}, status=400)
    budget = request.headers.get(records.DEADLINE_HEADER)
    entry = Execution(
        request_id=request.headers.get("x-request-id", ""),
        path=request.path,
        stream=asked.stream,
        deadline_ms=float(budget) if budget else None,
        started=time.time(),
        hedge=request.headers.get(records.HEDGE_HEADER, ""),
    )
    emulated.log.append(entry)
    entry.end = "cancelled"  # unless something below says otherwise
    try:
        return await _answer(request, emulated, asked, len(raw), entry)
    finally:
        entry.ended = time.time()


async def _answer(
    request: web.Request, emulated: Emulated, asked: Asked, size: int, entry: Execution
) -> web.StreamResponse:
    match emulated.fault:
        case Fault.REFUSE:
            entry.end = "refused"
            return web.json_response({"error": {}}, status=503, headers={records.EXECUTED_HEADER: "0"})
        case Fault.ERROR:
            entry.end = "failed"
            return web.json_response({"error": {"message": "emulated"}}, status=500)
        case Fault.BLACK_HOLE:
            await asyncio.Event().wait()
        case Fault.GARBAGE:
            entry.end = "failed"
            return await _write_raw(request, b"\x00\xffHTTX/9 nonsense\n\n\r\n\r\n")
        case Fault.GZIP:
            entry.end = "done"
            bomb = gzip.compress(bytes(64 << 20), 9)
            return web.Response(body=bomb, content_type="application/json", headers={"content-encoding": "gzip"})
    emulated.accepted += 1
    if emulated.accelerator is not None:
        return await _modelled(request, emulated, emulated.accelerator, asked, size, entry)
    async with emulated.slot() as queued:
        if emulated.fault is Fault.STALL:
            await asyncio.Event().wait()
        if emulated.fault is Fault.CUT and not asked.stream:
            entry.end = "failed"
            return await _write_raw(request, b"")
        if asked.stream:
            return await _stream(request, emulated, asked, size, queued, entry)
        items = len(asked.input) if isinstance(asked.input, list) else 1
        prefill, decode = service(emulated, size, asked.tokens if _generates(request.path) else 0, items)
        await asyncio.sleep(prefill + decode)
        entry.end = "done"
        spent = records.Timings(queue=queued, prefill=prefill, decode=decode, accel=prefill + decode)
        headers = {records.TIMING_HEADER: spent.encode()}
        return web.json_response(reply(request.path, asked, items), headers=headers)


async def _modelled(
    request: web.Request, emulated: Emulated, accelerator: Accelerator, asked: Asked, size: int, entry: Execution
) -> web.StreamResponse:
    """Serve by the model. Between the first token and the last there are no events: nobody measures them."""
    given = request.headers
    output = int(given.get(OUTPUT_HEADER, asked.tokens))
    work = Size(float(given.get(PROMPT_HEADER, size / 4)), output, float(given.get(NOISE_HEADER, 1.0)))
    if emulated.herd is not None:
        service = Service(accelerator.profile)
        emulated.herd.arrived(time.monotonic(), service.prefill(work.prompt), service.full_share(work.output))
    async with accelerator.serve(work) as job:
        usage = {"prompt_tokens": round(work.prompt), "completion_tokens": output}
        if not asked.stream:
            await accelerator.until(job.ends)
            entry.end = "done"
            headers = {records.TIMING_HEADER: job.timings.encode()}
            return web.json_response(reply(request.path, asked, 1) | {"usage": usage}, headers=headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event(chunk(request.path, asked, last=False)))
        await accelerator.until(job.ends)
        last = event(chunk(request.path, asked, last=True) | {"usage": usage})
        await response.write(last + _end(request, job.timings))
        await response.write_eof()
        entry.end = "done"
        return response


def service(emulated: Emulated, size: int, tokens: int, items: int) -> tuple[float, float]:
    """Seconds until the first token and from there to the last, by the curve; four bytes are taken as a token."""
    curve = emulated.curve
    return curve.seconds(size / 4, items=items) * emulated.slow, curve.decode * max(0, tokens - 1) * emulated.slow


def _generates(path: str) -> bool:
    return path.endswith("/completions")


async def _write_raw(request: web.Request, data: bytes) -> web.StreamResponse:
    """Write bytes past the HTTP machinery and close."""
    assert request.transport is not None
    if data:
        request.transport.write(data)
    request.transport.close()
    raise asyncio.CancelledError


async def _stream(
    request: web.Request, emulated: Emulated, asked: Asked, size: int, queued: float, entry: Execution
) -> web.StreamResponse:
    prefill, decode = service(emulated, size, asked.tokens, 1)
    await asyncio.sleep(prefill)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    pause = decode / max(1, asked.tokens - 1)
    for number in range(asked.tokens):
        if number:
            await asyncio.sleep(pause)
        if number == asked.tokens // 2 and emulated.fault is Fault.CUT:
            entry.end = "failed"
            return await _write_raw(request, b"")
        last = number == asked.tokens - 1
        await response.write(event(chunk(request.path, asked, last)))
    spent = records.Timings(queue=queued, prefill=prefill, decode=decode, accel=prefill + decode)
    await response.write(_end(request, spent))
    await response.write_eof()
    entry.end = "done"
    return response
