"""`/v1/rerank` by an embedding model: documents in the order of their likeness to a query.

Request and answer are Jina's and Cohere's (v1), as vLLM serves them. A relevance score is the cosine of the query's
and the document's vectors, -1 to 1: it orders documents, and is no probability.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from aiohttp import web
from msgspec import Meta

from workers.batcher import Batcher
from workers.catalog import EMBEDDING, Catalog
from workers.embedding import vectors
from workers.http import Call, Reply, Route, invalid, json_reply, read_body
from workers.openai_bodies import MAX_INPUTS
from workers.queue import Refused, bad


class RerankBody(msgspec.Struct, kw_only=True):
    """`POST /v1/rerank`."""

    model: str
    query: str
    documents: list[Any]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


class Rerank:
    """The route."""

    def __init__(self, catalog: Catalog, batcher: Batcher) -> None:
        self._catalog = catalog
        self._batcher = batcher

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/rerank", self.rerank)]

    async def rerank(self, request: web.Request, call: Call) -> Reply:
        raw = await read_body(request)
        if isinstance(raw, Refused):
            return raw
        try:
            body = msgspec.json.decode(raw, type=RerankBody)
        except msgspec.MsgspecError as error:
            return invalid(error)
        entry = self._catalog.find(body.model, call.variant, EMBEDDING)
        if isinstance(entry, Refused):
            return entry
        documents = texts(body)
        if isinstance(documents, Refused):
            return documents
        embedded = await vectors(self._batcher, entry, [body.query, *documents], call)
        if isinstance(embedded, Refused):
            return embedded
        scores = cosines(embedded.rows[0], embedded.rows[1:])
        best = np.argsort(-scores, kind="stable")[: body.top_n]
        reply = {
            "id": f"rerank-{call.id}",
            "model": body.model,
            "results": [
                {"index": int(i), "relevance_score": float(scores[i])}
                | ({} if body.return_documents is False else {"document": {"text": documents[i]}})
                for i in best
            ],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
        }
        return json_reply(call, orjson.dumps(reply), embedded.spent)


def texts(body: RerankBody) -> list[str] | Refused:
    """The documents: texts, or objects with a `text`."""
    if not body.query:
        return bad("The query is a text of at least one character.", "query")
    if not 0 < len(body.documents) < MAX_INPUTS:
        message = f"`documents` takes 1 to {MAX_INPUTS - 1} documents."
        return bad(message, "documents")
    found = []
    for i, document in enumerate(body.documents):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str) or not text:
            message = 'A document is a text of at least one character, or {"text": ...}.'
            return bad(message, f"documents[{i}]")
        found.append(text)
    return found


def cosines(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of unit vectors; rounding must not lead beyond 1."""
    return np.clip(rows @ query, -1.0, 1.0)
