"""Logs of something else than Isochrone as a history: LiteLLM spend logs, Envoy and nginx access logs.

A mapping (mapping.py) says what the fields mean and what such a log cannot know; the speed of the upstreams, where it
is not given, is fitted to the log. Mappings and samples to start from are in `scenarios/foreign/`.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from loadtests.rows import FileError, Row
from loadtests.simulator import formats
from loadtests.simulator.formats import instant
from loadtests.simulator.history import History, Past, worker_name
from loadtests.simulator.mapping import Deadline, Mapping, Time, Tokens, Upstream, mapped
from loadtests.workload import Class, Surface
from policies.cost import SECONDS_PER_HOUR, TOKENS_PER_MTOK
from policies.decision import Group, Served
from policies.records import Curve, MarginalPrice, Price, TokenPrice

ENOUGH = 20
"""Answers that a fit wants to see."""
WAITED = 1.25
"""What took so many times as long as the faster half says has waited, and says nothing of the speed."""
LOCAL_MS = (1.0, 0.2)


class Line(NamedTuple):
    """One request as the log has it, who answered not yet understood."""

    at: float
    first: float | None
    took: float
    answered: bool
    upstream: int
    name: str
    """Of the one worker."""
    attempts: int
    model: str
    prompt: float
    output: float
    cost: float | None
    tenant: str


def history(path: Path, meaning: Mapping) -> History:
    """Read a log. Raises FileError with file, line and field."""
    lines: list[Line] = []
    left: Counter[str] = Counter()
    rows = list(formats.read(path, meaning.format, meaning.log_format))
    _check_fields(path, meaning, rows)
    for row in rows:
        line = _line(row, meaning)
        if isinstance(line, str):
            left[line] += 1
        else:
            lines.append(line)
    if not lines:
        raise FileError(f"{path}: no request in it that reached an upstream")
    lines.sort(key=lambda line: line.at)
    by_upstream: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_upstream[line.upstream].append(line)
    fleet: list[Group] = []
    numbers: dict[int, int] = {}
    notes = [f"Left out, {why}: {count}." for why, count in sorted(left.items())]
    for index, upstream in enumerate(meaning.upstreams):
        own = by_upstream.get(index, [])
        if not own and (upstream.workers is None or upstream.curve is None or not upstream.models):
            notes.append(
                f"{upstream.match}: nobody in the log; with workers, slots, curve and models it could be used."
            )
            continue
        group, said = _group(path, index, upstream, own, _trip(meaning, upstream.region)[0])
        numbers[index] = len(fleet)
        fleet.append(group)
        notes += said
    kinds: dict[Class, Class] = {}
    places = _places(by_upstream, fleet, numbers)
    past = [_past(line, meaning, fleet[numbers[line.upstream]], places[line.name], kinds) for line in lines]
    regions = dict.fromkeys((meaning.gateway, *(group.region for group in fleet)))
    return History(
        source=path.name,
        past=tuple(past),
        fleet=tuple(fleet),
        trips={(meaning.gateway, region): _trip(meaning, region) for region in regions},
        gateways=(meaning.gateway,),
        notes=tuple(notes),
    )


def _places(by_upstream: dict[int, list[Line]], fleet: Sequence[Group], numbers: dict[int, int]) -> dict[str, str]:
    """Each upstream's worker in the world. Where the mapping says that there are fewer, several share one."""
    places = {}
    for index, own in by_upstream.items():
        number = numbers[index]
        for place, name in enumerate(sorted({line.name for line in own})):
            places[name] = worker_name(number, place % fleet[number].count)
    return places


def _check_fields(path: Path, meaning: Mapping, rows: Sequence[Row]) -> None:
    """Every field the mapping names is one of the log."""
    known = formats.names(meaning.format, meaning.log_format) or {name for row in rows for name in row.fields}
    for place, field in mapped(meaning.fields):
        if field not in known:
            raise FileError(
                f"{path}: no line has a field {field!r} (fields.{place} of the mapping); there are "
                f"{', '.join(sorted(known))}"
            )


# A line.


def _line(row: Row, meaning: Mapping) -> Line | str:
    """A line understood, or why it is left out."""
    fields = meaning.fields
    if fields.cached and str(_value(row, fields.cached)).lower() == "true":
        return "answered from a cache"
    status = str(_value(row, fields.status) or "") if fields.status else ""
    if status.isdecimal() and 400 <= int(status) < 500:
        return "at fault themselves, or given up by their client (4xx)"
    names = _several(_value(row, fields.upstream))
    if not names:
        return "never reached an upstream"
    at = instant(row, fields.time)
    took = _seconds(row, fields.took, at)
    if fields.time_is == "end":
        at -= took
    first = None if fields.first is None or _value(row, fields.first.field) is None else _seconds(row, fields.first, at)
    return Line(
        at=at,
        first=first,
        took=took,
        answered=not (status.isdecimal() and (int(status) >= 500 or int(status) == 0)) and status != "failure",
        upstream=_upstream(row, fields.upstream, names[-1], meaning.upstreams),
        name=names[-1],
        attempts=len(names),
        model=str(_value(row, fields.model) or meaning.model) if fields.model else meaning.model,
        prompt=_tokens(row, fields.prompt_tokens),
        output=max(1.0, _tokens(row, fields.output_tokens)),
        cost=row.number(fields.cost, least=0.0) if fields.cost and _value(row, fields.cost) is not None else None,
        tenant=str(_value(row, fields.tenant) or "") if fields.tenant else "",
    )


def _value(row: Row, field: str) -> object:
    """What stands in a field; None for nothing. A field no line has is a mistake of the mapping."""
    value = row.fields.get(field)
    return None if value is None or value in formats.ABSENT else value


def _several(value: object) -> list[str]:
    """nginx writes `a, b : c` when it asked several; a URL and a port stay whole."""
    return [] if value is None else [part for part in re.split(r"\s*,\s*|\s+:\s+", str(value).strip()) if part != "-"]


def _seconds(row: Row, time: Time, since: float) -> float:
    if time.unit == "instant":
        seconds = instant(row, time.field) - since
        if seconds < 0.0:
            raise row.wrong(time.field, f"{-seconds:g} s before the request came")
        return seconds
    parts = _several(_value(row, time.field))
    last = Row(row.path, row.line, {time.field: parts[-1] if parts else None})
    return last.number(time.field, least=0.0) / (1e3 if time.unit == "ms" else 1.0)


def _tokens(row: Row, tokens: Tokens) -> float:
    if not tokens.field or _value(row, tokens.field) is None:
        return tokens.value
    number = row.number(tokens.field, least=0.0)
    if tokens.bytes_per_token is None:
        return number
    return max(0.0, number - tokens.overhead_bytes) / tokens.bytes_per_token


def _upstream(row: Row, field: str, name: str, upstreams: Sequence[Upstream]) -> int:
    for index, upstream in enumerate(upstreams):
        if fnmatch.fnmatchcase(name, upstream.match):
            return index
    raise row.wrong(field, f'no upstream of the mapping matches {name!r}: add one, or `match: "*"` for all others')


# Workers.


def _group(path: Path, index: int, upstream: Upstream, own: Sequence[Line], way: float) -> tuple[Group, list[str]]:
    """Workers that are alike, and what was assumed of them."""
    said = []
    names = {line.name for line in own}
    slots = upstream.slots
    if slots is None:
        slots = max((_busiest([line for line in own if line.name == name]) for name in names), default=1)
        said.append(f"{upstream.match}: {slots} slots, the most requests that one worker had at once.")
    curve = upstream.curve
    if curve is None:
        curve = _fit([line for line in own if line.answered], way)
        if curve is None:
            raise FileError(
                f"{path}: $.upstreams[{index}].curve: fewer than {ENOUGH} answers of {upstream.match!r} to fit one to: "
                "give {base, prefill, decode} in seconds"
            )
        said.append(
            f"{upstream.match}: fitted {curve.base * 1e3:.0f} ms, {curve.prefill * 1e6:.0f} us a prompt token and "
            f"{curve.decode * 1e3:.1f} ms an output token."
        )
    price: Price = TokenPrice(upstream.input_usd_per_mtok, upstream.output_usd_per_mtok)
    if upstream.usd_per_hour is not None:
        price = MarginalPrice(upstream.usd_per_hour)
    models = upstream.models or tuple(sorted({line.model for line in own}))
    group = Group(
        region=upstream.region, count=upstream.workers or len(names), accelerator=upstream.accelerator or f"u{index}",
        price=price, egress_usd_per_gb=upstream.egress_usd_per_gb,
        serves=tuple(Served(model, upstream.variant, curve, slots, upstream.quality) for model in models),
    )  # fmt: skip
    return group, said


def _busiest(own: Iterable[Line]) -> int:
    """Most at work at one moment."""
    changes = sorted(change for line in own for change in ((line.at, 1), (line.at + line.took, -1)))
    here = most = 0
    for _, change in changes:
        here += change
        most = max(most, here)
    return max(1, most)


def _fit(own: Sequence[Line], way: float) -> Curve | None:
    """A curve of no negative part, by least squares on what did not wait."""
    streamed = [line for line in own if line.first is not None and line.took > line.first]
    if len(streamed) >= ENOUGH:
        head = _least([(1.0, line.prompt) for line in streamed], [(line.first or 0.0) - way for line in streamed])
        paces = sorted((line.took - (line.first or 0.0)) / max(1.0, line.output - 1.0) for line in streamed)
        return Curve(base=head[0], prefill=head[1], decode=paces[len(paces) // 2])
    if len(own) < ENOUGH:
        return None
    whole = _least([(1.0, line.prompt, line.output) for line in own], [line.took - way for line in own])
    return Curve(base=whole[0], prefill=whole[1], decode=whole[2])


def _least(factors: Sequence[tuple[float, ...]], seconds: Sequence[float]) -> list[float]:
    columns, times = np.array(factors), np.maximum(np.array(seconds), 0.0)
    found, _ = nnls(columns, times)
    over = times - columns @ found
    faster = over <= np.median(over)
    found, _ = nnls(columns[faster], times[faster])
    prompt = times <= WAITED * (columns @ found)
    if prompt.sum() >= ENOUGH / 2:
        found, _ = nnls(columns[prompt], times[prompt])
    return [float(value) for value in found]


# Requests.


def _past(line: Line, meaning: Mapping, group: Group, worker: str, kinds: dict[Class, Class]) -> Past:
    streams = line.first is not None and line.first < line.took
    kind = _kind(meaning, line.model, streams)
    kind = kinds.setdefault(kind, kind)
    first = line.first if line.first is not None else line.took
    met = line.answered and first <= (kind.first_token_s or math.inf) and line.took <= (kind.total_s or math.inf)
    return Past(
        at=line.at,
        region=meaning.gateway,
        kind=kind,
        prompt_tokens=line.prompt,
        output_tokens=line.output if line.answered else None,
        tenant=line.tenant,
        first=first if line.answered else None,
        total=line.took if line.answered else None,
        met=met,
        cost=line.cost if line.cost is not None else _bill(group, line),
        attempts=line.attempts,
        served=group.region if line.answered else "",
        worker=worker,
    )


def _kind(meaning: Mapping, model: str, streams: bool) -> Class:
    wanted = next((one for one in meaning.deadlines if fnmatch.fnmatchcase(model, one.model)), Deadline())
    first, total = wanted.first_token_ms, wanted.total_ms
    return Class(
        name=f"{model} {'stream' if streams else 'unary'}",
        first_token_s=None if first is None else first / 1e3,
        total_s=None if total is None else total / 1e3,
        probability=wanted.probability,
        surface=Surface.CHAT_STREAM if streams else Surface.CHAT,
        model=model,
    )


def _bill(group: Group, line: Line) -> float:
    """By the price, as the simulator bills: a busy accelerator is divisible."""
    price = group.price
    if not isinstance(price, TokenPrice):
        curve, slots = group.serves[0].curve, group.serves[0].slots
        seconds = curve.base + curve.prefill * line.prompt + curve.decode * (line.output - 1.0) / slots
        return price.usd_per_hour * seconds / SECONDS_PER_HOUR
    return (price.input_usd_per_mtok * line.prompt + price.output_usd_per_mtok * line.output) / TOKENS_PER_MTOK


def _trip(meaning: Mapping, region: str) -> tuple[float, float]:
    mean, deviation = meaning.round_trips_ms.get(region, LOCAL_MS)
    return mean / 1e3, deviation / 1e3
