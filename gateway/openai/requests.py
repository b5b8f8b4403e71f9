"""Reads the body fields that routing needs, and makes the one edit a foreign engine needs.

`read` refuses what two parsers could understand differently (gate rule 10); `rewrite` splices bytes, so that every
byte outside the edit stays as the client sent it. Its oracle in the tests is parse, change, compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from gateway.body import Body, Kind, Provider, too_deep
from gateway.openai.sizes import OTHER, PATHS, Document, FieldError, Size
from policies.reason import Reason
from policies.request import INFINITE, Shed, Sort

MAX_CHOICES = 16
"""Bound on `n` and `best_of`: one request must not become a hundred ."""
MAX_TOKENS = 1_000_000
"""Bound on the answer's length; no engine writes a longer one."""
MAX_NAME = 256
MAX_AFFINITY = 512
"""Longer affinity keys are cut: the key only chooses a node, and is kept with the request."""
MAX_NAMES = 64
"""Names in one list of `provider`."""

_LIMIT_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""The newer names win: OpenAI deprecates `max_tokens` in their favour."""
_NEWER_LIMITS = frozenset(_LIMIT_FIELDS) - {"max_tokens"}
_AFFINITY_FIELDS = ("prompt_cache_key", "user")
_RARE = ("provider", "n", "best_of", "service_tier", *_AFFINITY_FIELDS)
_ROUTING_KEYS = ("model", "stream", *_LIMIT_FIELDS, *_RARE)
_LOOKED_FOR = frozenset((*_RARE, "nvext"))
"""Members most bodies have none of; only then are they looked for one by one."""
_QUOTED = {key: b'"%b"' % key.encode() for key in _ROUTING_KEYS}
_AS_KEY = {key: re.compile(quoted + rb"[ \t\n\r]*:") for key, quoted in _QUOTED.items()}
_ESCAPED_LETTER = re.compile(rb"\\u00[567]")
"""An escape that may stand for a letter or `_` of a routing key; ordinary encoders write none."""


def read(path: bytes, raw: bytes) -> Body | Shed:
    """Read a POST body on the OpenAI surface. `path` may carry a query."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Shed(Reason.INVALID_JSON, f"The fault is at line {error.lineno}, column {error.colno}.")
    if type(document) is not dict:
        return Shed(Reason.INVALID_JSON, "The body must be an object.")
    if too_deep(raw):
        return Shed(Reason.INVALID_JSON, "The body is nested too deeply.")
    if raw != orjson.dumps(document):  # else it has as many members as were read, and none behind an escape
        twice = _sent_twice(raw, document)
        if twice is not None:
            return Shed(Reason.BAD_REQUEST, "This field may appear once only.", twice)
    kind, size = PATHS.get(path) or PATHS.get(path.partition(b"?")[0], OTHER)
    try:
        return _body(kind, size, document, len(raw))
    except FieldError as bad:
        return bad.shed


def _body(kind: Kind, size: Size, document: Document, length: int) -> Body:
    find = document.get
    model = find("model")
    if type(model) is not str or not 0 < len(model) <= MAX_NAME:
        raise FieldError("model", "the name of a model, as GET /v1/models lists them")
    stream = find("stream")
    if stream is not None and type(stream) is not bool:
        raise FieldError("stream", "true or false")
    prompt_tokens, items = size(document, length)
    limit = _max_tokens(document)
    if _LOOKED_FOR.isdisjoint(document):
        return Body(
            kind=kind,
            model=model,
            bytes=length,
            stream=stream is True,
            prompt_tokens=prompt_tokens,
            max_tokens=limit,
            items=items,
        )
    provider = find("provider")
    return Body(
        kind=kind,
        model=model,
        bytes=length,
        stream=stream is True,
        prompt_tokens=prompt_tokens,
        max_tokens=limit,
        output_tokens=_expected_tokens(document) if "nvext" in document else None,
        choices=_choices(document) if "n" in document or "best_of" in document else 1,
        items=items,
        has_provider="provider" in document,
        provider=None if provider is None else _provider(provider),
        service_tier=_string(document, "service_tier"),
        affinity=_string(document, "prompt_cache_key") or _string(document, "user"),
    )


# Scalars.


def _string(document: Document, key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if type(value) is not str:
        raise FieldError(key, "a string")
    return value[:MAX_AFFINITY]


def _whole(document: Document, key: str, least: int, most: int) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise FieldError(key, f"a whole number from {least} to {most}")
    return value


def _max_tokens(document: Document) -> int | None:
    limit = document.get("max_tokens")
    if type(limit) is int and 0 <= limit <= MAX_TOKENS and _NEWER_LIMITS.isdisjoint(document):
        return limit
    for key in _LIMIT_FIELDS:
        if key in document:
            limit = _whole(document, key, 0, MAX_TOKENS)
            if limit is not None:
                return limit
    return None


def _choices(document: Document) -> int:
    return max(_whole(document, "n", 1, MAX_CHOICES) or 1, _whole(document, "best_of", 1, MAX_CHOICES) or 1)


def _expected_tokens(document: Document) -> float | None:
    """Dynamo's hint `nvext.agent_hints.osl`, the output length its client expects; anything else there is not ours."""
    hints = document["nvext"]
    for key in ("agent_hints", "osl"):
        hints = hints.get(key) if type(hints) is dict else None
    return float(hints) if type(hints) is int and 0 <= hints <= MAX_TOKENS else None


# `provider`. Fields of OpenRouter's that have no meaning here (`data_collection`, `zdr`, ...) are ignored.


def _provider(given: object) -> Provider:
    if type(given) is not dict:
        raise FieldError("provider", "an object")
    price = given.get("max_price")
    if price is None:
        price = {}
    elif type(price) is not dict:
        raise FieldError("provider.max_price", "an object with `prompt` and `completion`")
    fallbacks = given.get("allow_fallbacks")
    if fallbacks is not None and type(fallbacks) is not bool:
        raise FieldError("provider.allow_fallbacks", "true or false")
    return Provider(
        max_prompt=_price(price, "prompt"),
        max_completion=_price(price, "completion"),
        quantizations=_names(given, "quantizations"),
        only=_names(given, "only"),
        ignore=_names(given, "ignore"),
        order=_names(given, "order"),
        sort=_sort(given.get("sort")),
        allow_fallbacks=fallbacks is not False,
    )


def _price(price: Mapping[str, object], key: str) -> float:
    """US dollars per million tokens; OpenRouter's own clients send numbers, some send them as strings."""
    value = price.get(key)
    if value is None:
        return INFINITE
    if type(value) is str and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,12})?", value, re.ASCII):
        return float(value)
    if (type(value) is int or type(value) is float) and value >= 0:
        return float(value)
    raise FieldError(f"provider.max_price.{key}", "US dollars per million tokens, a number from 0")


def _names(given: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = given.get(key)
    if value is None:
        return ()
    if (
        type(value) is not list
        or len(value) > MAX_NAMES
        or not all(type(name) is str and 0 < len(name) <= MAX_NAME for name in value)
    ):
        raise FieldError(f"provider.{key}", f"an array of up to {MAX_NAMES} names")
    return tuple(value)


def _sort(value: object) -> Sort | None:
    """A name, or OpenRouter's later form `{"by": name}`."""
    if type(value) is dict:
        value = value.get("by")
    if value is None:
        return None
    for sort in Sort:
        if sort.value == value:
            return sort
    raise FieldError("provider.sort", "one of price, latency, throughput")


# Members of the top-level object, as bytes.


class Member(NamedTuple):
    """Where one top-level member stands in the body: byte offsets, ends exclusive."""

    key: str
    start: int
    value: int
    end: int


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
"""The standard library's decoder says where a value ends, which orjson does not."""


def members(raw: bytes) -> list[Member]:
    """List the members of a JSON object in order, repeated ones too. `raw` must be valid: parsed once, not too deep.

    JSON's own characters are ASCII, so that a Latin-1 view of the bytes has the same structure and offsets.
    """
    text = raw.decode("latin-1")

    def skip(at: int) -> int:
        return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches the empty string too

    found: list[Member] = []
    at = skip(skip(0) + 1)
    while text[at] != "}":
        start = at
        key, at = _DECODER.raw_decode(text, at)
        value = skip(skip(at) + 1)
        _, end = _DECODER.raw_decode(text, value)
        found.append(Member(key, start, value, end))
        at = skip(end)
        if text[at] == ",":
            at = skip(at + 1)
    return found


def _sent_twice(raw: bytes, document: Document) -> str | None:
    """Find a routing key that two parsers could resolve differently: repeated, plainly or behind an escape.

    The members are listed only for a body that fails the cheap tests; `"user"` is also a role's name.
    """
    for key in document:
        quoted = _QUOTED.get(key)
        if quoted is not None and raw.find(quoted) != raw.rfind(quoted) and len(_AS_KEY[key].findall(raw)) != 1:
            break
    else:
        if b"\\" not in raw or b"\\u00" not in raw or _ESCAPED_LETTER.search(raw) is None:
            return None
    keys = [member.key for member in members(raw)]
    return next((key for key in _ROUTING_KEYS if keys.count(key) > 1), None)


def rewrite(raw: bytes, body: Body, served_name: str | None) -> bytes:
    """Put `served_name` in place of the model's name and cut `provider` out; the same object when neither is needed.

    Only for bodies `read` accepted: they name each member once, so there is exactly one place for each edit.
    """
    rename = bool(served_name) and served_name != body.model
    if not rename and not body.has_provider:
        return raw
    listed = members(raw)
    edits: list[tuple[int, int, bytes]] = []
    for index, member in enumerate(listed):
        if member.key == "model" and rename:
            edits.append((member.value, member.end, orjson.dumps(served_name)))
        elif member.key == "provider":
            edits.append((*_cut(listed, index), b""))
    for start, end, new in reversed(edits):
        raw = raw[:start] + new + raw[end:]
    return raw


def _cut(listed: list[Member], index: int) -> tuple[int, int]:
    """The bytes to remove with a member: it and one comma, if there is any."""
    if index + 1 < len(listed):
        return listed[index].start, listed[index + 1].start
    return (listed[index - 1].end if index else listed[index].start), listed[index].end
