"""A gateway's decision log (`policies/decision.py`) as a history to simulate.

One log or several, of one gateway or several, each with its older files. Left out is what no policy could change:
requests that were at fault themselves, and those whose client left. How far away the workers are and how much their
times scatter is taken from the answers in the log where there are enough of them, else from its surveys.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import msgspec

from loadtests.rows import FileError
from loadtests.simulator.history import History, Past
from loadtests.workload import Class, Surface
from policies import decision
from policies.decision import CLIENT_ERROR, OK, Attempted, Decided, Group, Opened, Served, Surveyed
from policies.reason import Reason

ENOUGH = 30
"""Answers from which a mean and a deviation are taken."""
OUTLIERS = 0.01
"""Share of the longest ways that are accidents, not distances."""
MAX_NOISE = 0.5
WEATHER = frozenset(
    reason.label
    for reason in (
        Reason.DEADLINE_INFEASIBLE, Reason.DEADLINE_EXCEEDED, Reason.NO_CAPACITY, Reason.OVERLOADED,
        Reason.CONNECT_FAILED, Reason.REFUSED, Reason.UPSTREAM_LOST, Reason.UPSTREAM_ERROR, Reason.BAD_UPSTREAM_REPLY,
        Reason.STREAM_INTERRUPTED,
    )
)  # fmt: skip
"""Refusals and failures that another policy might have spared."""


class Entry(NamedTuple):
    """A decision, and by whom."""

    decided: Decided
    opened: Opened


class Log(NamedTuple):
    """The lines of all files, as they were read."""

    entries: list[Entry]
    surveys: list[tuple[Opened, Surveyed]]
    torn: int
    """Lines a killed process left unfinished."""


def history(paths: Sequence[Path]) -> History:
    """Read logs. Raises FileError."""
    log = read(paths)
    source = ", ".join(path.name for path in paths)
    if not log.entries:
        raise FileError(f"{source}: no decision in it")
    surveys = [(opened, surveyed) for opened, surveyed in log.surveys if surveyed.groups]
    if not surveys:
        raise FileError(f"{source}: no survey of the fleet in it")
    lasted = _lasted(surveys, log.entries[0].decided.at, log.entries[-1].decided.at)
    usual = max(lasted, key=lambda count: (lasted[count], count))
    fleet = next(surveyed for _, surveyed in reversed(surveys) if _workers(surveyed) == usual).groups
    models = {served.model for group in fleet for served in group.serves}
    kept = [entry for entry in log.entries if _counts(entry.decided) and entry.decided.model in models]
    if not kept:
        raise FileError(f"{source}: no request in it that any policy could serve")
    fleet = _measured(fleet, kept)
    served = {(group.mark, one.model, one.variant): one for group in fleet for one in group.serves}
    gateways = {opened.gateway: opened.region for opened, _ in log.surveys}
    gateways |= {entry.opened.gateway: entry.opened.region for entry in kept}
    kinds: dict[Class, Class] = {}
    past = sorted((_past(entry, kinds) for entry in kept), key=lambda one: one.at)
    return History(
        source=source,
        past=tuple(past),
        fleet=fleet,
        trips=_trips(surveys, kept),
        gateways=tuple(gateways.values()),
        billed=_billed(kept, served),
        noise=_noise(kept, served),
        notes=tuple(_notes(log, kept, lasted, usual)),
    )


def _lasted(surveys: Sequence[tuple[Opened, Surveyed]], start: float, end: float) -> dict[int, float]:
    """For how many seconds of the log, over all gateways, the fleet had so many workers."""
    lasted: dict[int, float] = defaultdict(float)
    by_gateway: dict[str, list[Surveyed]] = defaultdict(list)
    for opened, surveyed in surveys:
        by_gateway[opened.gateway].append(surveyed)
    for own in by_gateway.values():
        ends = [surveyed.at for surveyed in own[1:]] + [end]
        for surveyed, until in zip(own, ends, strict=True):
            seconds = min(until, end) - max(surveyed.at, start)
            if seconds > 0.0 or len(surveys) == 1:
                lasted[_workers(surveyed)] += max(seconds, 0.0)
    return lasted or {_workers(surveys[-1][1]): 0.0}


def _workers(surveyed: Surveyed) -> int:
    return sum(group.count for group in surveyed.groups)


# Reading.


def read(paths: Sequence[Path]) -> Log:
    """The lines of logs and of their older files. Raises FileError with file, line and field."""
    log = Log([], [], 0)
    torn = 0
    for path in paths:
        for file in files(path):
            torn += _read(file, log)
    log.entries.sort(key=lambda entry: entry.decided.at)
    log.surveys.sort(key=lambda survey: survey[1].at)
    return log._replace(torn=torn)


def files(path: Path) -> list[Path]:
    """A log's files, oldest first."""
    older = [other for other in path.parent.glob(f"{path.name}.*") if other.suffix[1:].isdecimal()]
    return [*sorted(older, key=lambda other: -int(other.suffix[1:])), path]


def _read(path: Path, log: Log) -> int:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    opened: Opened | None = None
    for number, raw in enumerate(lines, start=1):
        if not raw:
            continue
        try:
            line = decision.decode(raw)
        except msgspec.MsgspecError as error:
            if number == len(lines):  # without its newline
                return 1
            raise FileError(f"{path}:{number}: {error}") from error
        if isinstance(line, Opened):
            if line.schema > decision.SCHEMA:
                raise FileError(f"{path}:{number}: v: schema {line.schema} is newer than this program")
            if not 0.0 < line.sample <= 1.0:
                raise FileError(f"{path}:{number}: sample: {line.sample:g} is no share")
            opened = line
        elif opened is None:
            raise FileError(f'{path}:{number}: t: a decision log begins with {{"t":"log"}}')
        elif isinstance(line, Surveyed):
            log.surveys.append((opened, line))
        else:
            log.entries.append(Entry(line, opened))
    return 0


# What was asked.


def _counts(decided: Decided) -> bool:
    last = decided.attempts[-1].outcome if decided.attempts else ""
    if last in (CLIENT_ERROR, Reason.CLIENT_GONE.label) or decided.refused == Reason.CLIENT_GONE.label:
        return False
    return not decided.refused or decided.refused in WEATHER


def _past(entry: Entry, kinds: dict[Class, Class]) -> Past:
    decided, opened = entry
    answer = decided.attempts[-1] if decided.attempts and decided.attempts[-1].outcome == OK else None
    kind = _kind(decided)
    first, total = (None, None) if answer is None else _times(answer)
    return Past(
        at=decided.at,
        region=opened.region,
        kind=kinds.setdefault(kind, kind),
        prompt_tokens=decided.prompt_tokens,
        output_tokens=_generated(decided, answer),
        items=decided.items,
        tenant=decided.tenant,
        stands_for=1.0 / opened.sample,
        policy=decided.policy,
        first=first,
        total=total,
        met=decided.in_deadline and _in_pace(decided, answer),
        refused=bool(decided.refused) and not decided.attempts,
        cost=decided.cost,
        attempts=len(decided.attempts),
        served=answer.region if answer is not None else "",
    )


def _kind(decided: Decided) -> Class:
    """Its deadline class. Three digits tell deadlines apart: a client's own leg taken off makes no class of its own."""
    first, total, interval = (_rounded(s) for s in (decided.first_token, decided.total, decided.token_interval))
    granted = (("first", first), ("total", total), ("token", interval))
    name = " ".join([decided.model, *(f"{what} {seconds:g} s" for what, seconds in granted if seconds is not None)])
    if (decided.probability, decided.quality, decided.min_quality) != (0.95, 0.0, 0.0):
        name += f" p{decided.probability:g} q{decided.quality:g}/{decided.min_quality:g}"
    return Class(
        name=name + ("" if decided.stream else " unary"),
        first_token_s=first,
        total_s=total,
        token_interval_s=interval,
        probability=decided.probability,
        quality=decided.quality,
        min_quality=decided.min_quality,
        surface=Surface.CHAT_STREAM if decided.stream else Surface.CHAT,
        model=decided.model,
    )


def _rounded(seconds: float | None) -> float | None:
    """None stands for no deadline; one that had passed on arrival is the shortest there is."""
    return None if seconds is None else max(float(f"{seconds:.3g}"), 1e-6)


def _generated(decided: Decided, answer: Attempted | None) -> float | None:
    if not decided.output_tokens:
        return 1.0  # a model without tokens: its one answer
    return None if answer is None or not answer.output_tokens else float(answer.output_tokens)


def _times(answer: Attempted) -> tuple[float | None, float | None]:
    seen = answer.actual
    if seen.total is None:
        return None, None
    first = seen.total if seen.first_byte is None else seen.first_byte
    return answer.started + first, answer.started + seen.total


def _in_pace(decided: Decided, answer: Attempted | None) -> bool:
    if decided.token_interval is None or answer is None or (answer.output_tokens or 0) < 2:
        return True
    seen = answer.actual
    assert answer.output_tokens is not None
    between = (seen.total or 0.0) - (seen.first_byte or 0.0)
    return between <= decided.token_interval * (answer.output_tokens - 1)


# What the fleet was.


def _answers(entries: Iterable[Entry]) -> Iterable[tuple[Entry, Attempted]]:
    for entry in entries:
        for attempt in entry.decided.attempts:
            if attempt.outcome == OK and attempt.actual.prefill is not None and attempt.actual.total is not None:
                yield entry, attempt


def way(attempt: Attempted) -> float:
    """Seconds of an answer that were not spent in its worker."""
    seen = attempt.actual
    assert seen.total is not None
    return max(0.0, seen.total - (seen.queue or 0.0) - (seen.prefill or 0.0) - (seen.decode or 0.0))


def _trips(
    surveys: Sequence[tuple[Opened, Surveyed]], entries: Sequence[Entry]
) -> dict[tuple[str, str], tuple[float, float]]:
    trips = {
        (opened.region, region): trip for opened, surveyed in surveys for region, trip in surveyed.round_trips.items()
    }
    ways: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry, attempt in _answers(entries):
        ways[entry.opened.region, attempt.region].append(way(attempt))
    for pair, seconds in ways.items():
        usual = sorted(seconds)[: math.ceil(len(seconds) * (1.0 - OUTLIERS))]
        if len(usual) >= ENOUGH:
            mean = fmean(usual)
            trips[pair] = (mean, fmean(abs(one - mean) for one in usual))
    return trips


def _measured(fleet: Sequence[Group], entries: Sequence[Entry]) -> tuple[Group, ...]:
    """The fleet with the curves that its answers show, prefill and decode apart, where there are enough of them.

    The factor that a gateway learns is one for both, and of the time it predicts, not of the time it takes.
    """
    seen: dict[tuple[str, str, str], list[tuple[Decided, Attempted]]] = defaultdict(list)
    for entry, attempt in _answers(entries):
        seen[_place(entry, attempt)].append((entry.decided, attempt))
    return tuple(
        msgspec.structs.replace(
            group,
            serves=tuple(_as_seen(one, seen.get((group.mark, one.model, one.variant), [])) for one in group.serves),
        )
        for group in fleet
    )


def _as_seen(served: Served, answers: Sequence[tuple[Decided, Attempted]]) -> Served:
    if len(answers) < ENOUGH:
        return served
    curve = served.curve
    expected = sum(curve.seconds(decided.prompt_tokens, 0.0, decided.items) for decided, _ in answers)
    prefill = sum(attempt.actual.prefill or 0.0 for _, attempt in answers)
    longer = prefill / expected if expected > 0.0 and prefill > 0.0 else 1.0
    made = msgspec.structs.replace(
        curve, base=curve.base * longer, item=curve.item * longer, prefill=curve.prefill * longer
    )
    tokens = sum(max(0, (attempt.output_tokens or 0) - 1) for _, attempt in answers)
    if tokens and not curve.decode_batch:  # a curve that knows what company does is better than a mean
        decode = sum(attempt.actual.decode or 0.0 for _, attempt in answers)
        made = msgspec.structs.replace(made, decode=decode / tokens)
    return msgspec.structs.replace(served, curve=made, speed=1.0, pace=1.0)


def _billed(entries: Sequence[Entry], served: dict[tuple[str, str, str], Served]) -> dict[tuple[str, str, str], float]:
    """What History.billed is."""
    billed: dict[tuple[str, str, str], float] = defaultdict(float)
    charged: dict[tuple[str, str, str], float] = defaultdict(float)
    for entry, attempt in _answers(entries):
        place, seen = _place(entry, attempt), attempt.actual
        if seen.accelerator is not None and place in served:
            billed[place] += seen.accelerator
            charged[place] += (seen.prefill or 0.0) + (seen.decode or 0.0) / served[place].slots
    return {place: billed[place] / spent for place, spent in charged.items() if spent > 0.0 and billed[place] > 0.0}


def _place(entry: Entry, attempt: Attempted) -> tuple[str, str, str]:
    """Who answered: a group's endpoint."""
    return attempt.mark, entry.decided.model, attempt.node.rpartition(":")[2]


def _noise(entries: Sequence[Entry], served: dict[tuple[str, str, str], Served]) -> float:
    """Deviation of the logarithm of service times around the curve, by their median."""
    logs = []
    for entry, attempt in _answers(entries):
        decided, seen = entry.decided, attempt.actual
        known = served.get(_place(entry, attempt))
        if known is None:
            continue
        tokens = max(0, (attempt.output_tokens or 0) - 1)
        expected = known.curve.seconds(decided.prompt_tokens, 0.0, decided.items) * known.speed
        expected += known.curve.decode * tokens * known.pace
        spent = (seen.prefill or 0.0) + (seen.decode or 0.0)
        if expected > 0.0 and spent > 0.0:
            logs.append(math.log(spent / expected))
    if len(logs) < ENOUGH:
        return 0.1
    middle = median(logs)
    return min(MAX_NOISE, 1.4826 * median(abs(one - middle) for one in logs))


def _notes(log: Log, kept: Sequence[Entry], lasted: Mapping[int, float], usual: int) -> Iterable[str]:
    total = len(log.entries)
    if len(kept) < total:
        yield (
            f"{total - len(kept)} of {total} logged requests are left out: refused for what they were, given up by "
            "their client, or for a model that nobody serves."
        )
    if log.torn:
        yield f"{log.torn} line left unfinished by a process that was killed."
    if len(lasted) > 1:
        share = lasted[usual] / sum(lasted.values())
        yield (
            f"The fleet had between {min(lasted)} and {max(lasted)} workers; it is replayed with {usual}, as it was "
            f"for {share:.0%} of the time."
        )
    samples = {entry.opened.sample for entry in kept}
    if samples != {1.0}:
        shown = ", ".join(f"{sample:g}" for sample in sorted(samples))
        yield f"Sampled at {shown}: a request stands for 1/sample of its kind, at moments between its neighbours."
    tied = sum(entry.decided.tied for entry in kept)
    if tied:
        yield f"{tied} requests were tied to some of the nodes; replayed they may use any."
    strict = sum("reject" in entry.decided.when_infeasible for entry in kept)
    if strict:
        yield f"{strict} requests would rather be refused than late; replayed they are tried."
