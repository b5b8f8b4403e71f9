"""The OpenAI surface of our own engines: chat, completions, responses, embeddings, the list of models.

Bodies are read by openai_bodies.py; here they become jobs, and what the jobs bring is written by openai_replies.py.
A stream's first byte is sent only once the first token exists, so that everything before it is still an ordinary
refusal, which a gateway may repeat elsewhere.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import orjson
from aiohttp import web

from policies.reason import Reason
from workers.batcher import Batcher
from workers.catalog import EMBEDDING, TEXT, Catalog, Entry
from workers.embedding import vectors
from workers.engines.text import Detokenizer
from workers.http import Call, Reply, Route, error_body, invalid, json_reply, read_body
from workers.openai_bodies import ChatBody, CompletionBody, EmbeddingBody, ResponseBody, TextBody, sentences
from workers.openai_replies import Chat, Completion, Response, Shape, event
from workers.queue import Job, Refused, Token
from workers.refusal import early
from workers.runners import Generation
from workers.timings import comment, load_comment, timings


class OpenAI:
    """Routes under /v1."""

    def __init__(self, catalog: Catalog, batcher: Batcher, report: Callable[[], str], rng: random.Random) -> None:
        """`report` says what the load is, as `Gauges.report` does."""
        self._catalog = catalog
        self._batcher = batcher
        self._report = report
        self._rng = rng
        self._since = int(time.time())

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/chat/completions", self.chat),
            Route("POST", "/v1/completions", self.complete),
            Route("POST", "/v1/responses", self.respond),
            Route("POST", "/v1/embeddings", self.embed),
            Route("GET", "/v1/models", self.models),
            Route("GET", "/v1/models/{model:.+}", self.model),
        ]

    async def chat(self, request: web.Request, call: Call) -> Reply:
        return await self._generate(request, call, ChatBody, Chat)

    async def complete(self, request: web.Request, call: Call) -> Reply:
        return await self._generate(request, call, CompletionBody, Completion)

    async def respond(self, request: web.Request, call: Call) -> Reply:
        return await self._generate(request, call, ResponseBody, Response)

    async def embed(self, request: web.Request, call: Call) -> Reply:
        """Sentences in, vectors out."""
        raw = await read_body(request)
        if isinstance(raw, Refused):
            return raw
        try:
            body = msgspec.json.decode(raw, type=EmbeddingBody)
        except msgspec.MsgspecError as error:
            return invalid(error)
        entry = self._catalog.find(body.model, call.variant, EMBEDDING)
        if isinstance(entry, Refused):
            return entry
        texts = sentences(body)
        if isinstance(texts, Refused):
            return texts
        embedded = await vectors(self._batcher, entry, texts, call)
        if isinstance(embedded, Refused):
            return embedded
        reply = {
            "object": "list",
            "model": body.model,
            "data": [
                {"object": "embedding", "index": i, "embedding": encode_vector(vector, body.encoding_format)}
                for i, vector in enumerate(embedded.rows)
            ],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
        }
        return json_reply(call, orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY), embedded.spent)

    async def models(self, request: web.Request, call: Call) -> Reply:
        data = [self._describe(name, variants.values()) for name, variants in self._catalog.models.items()]
        return json_reply(call, orjson.dumps({"object": "list", "data": data}))

    async def model(self, request: web.Request, call: Call) -> Reply:
        name = request.match_info["model"]
        variants = self._catalog.models.get(name)
        if variants is None:
            return Refused(Reason.MODEL_NOT_FOUND, "This worker does not serve that model.", "model")
        return json_reply(call, orjson.dumps(self._describe(name, variants.values())))

    def _describe(self, name: str, entries: Any) -> dict[str, Any]:
        entries = list(entries)
        classes = {"classes": list(entries[0].classes)} if entries[0].classes else {}
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "isochrone",
            "task": entries[0].endpoint.task,
            **classes,
            "variants": [_variant(entry) for entry in entries],
        }

    async def _generate(self, request: web.Request, call: Call, kind: type[TextBody], shape: type[Shape]) -> Reply:
        """Read, queue, and answer whole or token by token; whoever leaves frees the slot."""
        raw = await read_body(request)
        if isinstance(raw, Refused):
            return raw
        try:
            body = msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            return invalid(error)
        entry = self._catalog.find(body.model, call.variant, TEXT)
        if isinstance(entry, Refused):
            return entry
        work = self._work(body, entry)
        if isinstance(work, Refused):
            return work
        job = Job(
            entry.lane,
            work,
            arrived=call.arrived,
            deadline=call.deadline,
            first_deadline=call.first_deadline,
            prompt_tokens=len(work.prompt),
            output_tokens=work.sampling.max_tokens,
        )
        refused = early(self._batcher, [job], call.expected_wait) or self._batcher.submit([job])
        if refused is not None:
            return refused
        writer = shape(body, entry.lane, call.id, len(work.prompt))
        answer = Generated(job, Detokenizer(entry.text, work.sampling.stop), self._batcher)
        try:
            first = await answer.next()
            if isinstance(first, Refused):
                return first
            if body.stream:
                return await self._stream(request, call, answer, writer, first)
            return await self._whole(call, answer, writer, first)
        finally:
            self._batcher.cancel([job])

    def _work(self, body: TextBody, entry: Entry) -> Generation | Refused:
        """Tokenise, and fit the answer into what the context leaves."""
        prompt = body.prompt_ids(entry.text)
        if isinstance(prompt, Refused):
            return prompt
        room = entry.context - len(prompt)
        if room < 1:
            message = f"The prompt has {len(prompt)} tokens; with its answer it must fit in {entry.context}."
            return Refused(Reason.BAD_REQUEST, message, body.prompt_field)
        sampling = body.sampling(room, self._rng.getrandbits(31))
        return sampling if isinstance(sampling, Refused) else Generation(prompt, sampling)

    async def _whole(self, call: Call, answer: Generated, writer: Shape, piece: str) -> Reply:
        pieces = [piece]
        while answer.finish is None:
            following = await answer.next()
            if isinstance(following, Refused):
                return following._replace(executed=True)
            pieces.append(following)
        reply = writer.whole("".join(pieces), answer.finish, answer.job.generated)
        return json_reply(call, orjson.dumps(reply), timings([answer.job]))

    async def _stream(
        self, request: web.Request, call: Call, answer: Generated, writer: Shape, piece: str
    ) -> web.StreamResponse:
        """Server-sent events, one per piece of text. After a fault: an error event, no [DONE], no clean end."""
        headers = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-request-id": call.id}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(writer.opening() + (writer.delta(piece) if piece else b""))
        while answer.finish is None:
            following = await answer.next()
            if isinstance(following, Refused):
                await response.write(
                    event(error_body(following._replace(reason=Reason.STREAM_INTERRUPTED, message="")))
                )
                assert request.transport is not None
                request.transport.close()
                return response
            if following:
                await response.write(writer.delta(following))
        tail = writer.closing(answer.finish, answer.job.generated)
        spent = comment(timings([answer.job]))
        load = load_comment(self._report()) if call.reports else b""
        await response.write(tail + spent + load + writer.end)
        await response.write_eof()
        return response


class Generated:
    """One answer being generated: pieces of text out, until `finish` says why it ended."""

    def __init__(self, job: Job, detokenizer: Detokenizer, batcher: Batcher) -> None:
        self.job = job
        self.finish: str | None = None
        self._detokenizer = detokenizer
        self._batcher = batcher

    async def next(self) -> str | Refused:
        """The text of the next token, often one word, sometimes empty."""
        got = await self.job.events.get()
        if isinstance(got, Refused):
            return got
        assert isinstance(got, Token)
        piece = self._detokenizer.push(got.id)
        if got.done is not None and not self._detokenizer.stopped:
            self.finish = got.done
            piece += self._detokenizer.finish()
        if self._detokenizer.stopped:
            self.finish = "stop"
            self._batcher.finish(self.job)
        return piece


def _variant(entry: Entry) -> dict[str, Any]:
    """A classifier whose probabilities were measured says by how much they are off."""
    off = {} if entry.calibration_error is None else {"calibration_error": entry.calibration_error}
    return {"variant": entry.endpoint.variant, "quality": entry.endpoint.quality, **off}


def encode_vector(vector: np.ndarray, encoding: str) -> np.ndarray | str:
    """A vector as the client asked: numbers, or base64 of little-endian float32 as the official client prefers."""
    if encoding == "float":
        return vector
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
