"""`/v1/decisions` as the `openai` package speaks it, and `/v1/systemone`: typed questions, answered with probabilities.

Where the probabilities come from depends on the model, and neither is a judgement in words:
a classifier (tabular, images) reads the subject as its input, and its own output is taken for the classes that a
question names. They are calibrated as far as its manifest says (`calibration_error`, shown by `GET /v1/models`).
An embedding model compares the subject's vector with each option's: softmax of the cosines over TEMPERATURE, and for
a predicate without criteria the logistic function of its instructions' cosine above LIKE. Those are uncalibrated: they
order, and thresholds on them have to be found on the user's own data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from aiohttp import web

from policies.records import Timings
from workers import tensors
from workers.batcher import Batcher
from workers.catalog import EMBEDDING, TENSOR, Catalog, Entry
from workers.decision_bodies import CHOICE, PREDICATE, Asked, Option, Question, Subject, read_decision, read_systemone
from workers.embedding import vectors
from workers.http import Call, Reply, Route, json_reply, read_body
from workers.openai_bodies import MAX_INPUTS
from workers.queue import Refused, bad
from workers.refusal import early
from workers.timings import timings

TEMPERATURE = 0.05
LIKE = 0.56
"""MiniLM int8 on 1,411 rewordings of 364 questions: a logistic fit of rewording against another question; the softmax
that picks the rewording among four is best (log loss) at the same temperature of 0.02, 0.03, 0.05, 0.07, ... 0.2."""


class Answered(NamedTuple):
    """What came of a request: for every question the probabilities of its options; of a predicate, of its truth."""

    probabilities: list[np.ndarray]
    tokens: int
    spent: Timings


class Decisions:
    """The routes."""

    def __init__(self, catalog: Catalog, batcher: Batcher) -> None:
        self._catalog = catalog
        self._batcher = batcher

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/decisions", self.decide),
            Route("POST", "/v1/systemone", self.systemone),
        ]

    async def decide(self, request: web.Request, call: Call) -> Reply:
        return await self._answer(request, call, read_decision, decision_reply)

    async def systemone(self, request: web.Request, call: Call) -> Reply:
        return await self._answer(request, call, read_systemone, systemone_reply)

    async def _answer(
        self,
        request: web.Request,
        call: Call,
        read: Callable[[bytes], Asked | Refused],
        write: Callable[[Asked, Answered], dict[str, Any]],
    ) -> Reply:
        raw = await read_body(request)
        if isinstance(raw, Refused):
            return raw
        asked = read(raw)
        if isinstance(asked, Refused):
            return asked
        entry = self._catalog.find(asked.model, call.variant, TENSOR, EMBEDDING)
        if isinstance(entry, Refused):
            return entry
        answer = self._classify if entry.kind == TENSOR else self._compare
        answered = await answer(entry, asked, call)
        if isinstance(answered, Refused):
            return answered
        return json_reply(call, orjson.dumps(write(asked, answered)), answered.spent)

    async def _classify(self, entry: Entry, asked: Asked, call: Call) -> Answered | Refused:
        """One item through a classifier, its classes' probabilities as each question wants them."""
        classes = classes_of(entry)
        if isinstance(classes, Refused):
            return classes
        wanted: list[list[int]] = []
        for question in asked.questions:
            chosen = chosen_classes(question, classes)
            if isinstance(chosen, Refused):
                return chosen
            wanted.append(chosen)
        feeds = read_item(asked.subject, entry)
        if isinstance(feeds, Refused):
            return feeds
        jobs = tensors.jobs(feeds, entry, call.arrived, call.deadline)
        results = early(self._batcher, jobs, call.expected_wait) or await self._batcher.results(jobs)
        if isinstance(results, Refused):
            return results
        row = results[0][entry.outputs[0].name][0].astype(np.float64)
        found = [_shares(row, question, each) for question, each in zip(asked.questions, wanted, strict=True)]
        return Answered(found, 0, timings(jobs))

    async def _compare(self, entry: Entry, asked: Asked, call: Call) -> Answered | Refused:
        """A text beside the options of each question, by cosine."""
        if not asked.subject.text:
            return bad("There is nothing to decide about: give a text.", asked.subject.field)
        texts = [asked.subject.text]
        places: list[list[int]] = []
        for question in asked.questions:
            options = option_texts(question)
            if isinstance(options, Refused):
                return options
            places.append(list(range(len(texts), len(texts) + len(options))))
            texts += options
        if len(texts) > MAX_INPUTS:
            return bad(f"All questions together have at most {MAX_INPUTS - 1} options.", "questions")
        embedded = await vectors(self._batcher, entry, texts, call)
        if isinstance(embedded, Refused):
            return embedded
        cosines = (embedded.rows @ embedded.rows[0]).astype(np.float64)
        found = [_likeness(cosines[place], each) for place, each in zip(places, asked.questions, strict=True)]
        return Answered(found, embedded.tokens, embedded.spent)


def classes_of(entry: Entry) -> Sequence[str] | Refused:
    """A classifier's classes, by name or else by number; what is none is refused."""
    spec = entry.outputs[0]
    classifies = entry.endpoint.task == "classification" and len(entry.inputs) == 1 and len(spec.shape) == 2
    if not classifies or (not entry.classes and spec.shape[1] < 1):
        return bad("This model does not classify, so that it decides nothing.", "model")
    return entry.classes or [str(i) for i in range(spec.shape[1])]


def read_item(subject: Subject, entry: Entry) -> dict[str, np.ndarray] | Refused:
    """One row for a classifier: an array of numbers, an object with the input's name, or with a number per feature."""
    spec, given = entry.inputs[0], subject.data
    if isinstance(given, dict):
        given = given[spec.name] if spec.name in given else _columns(given, subject, entry)
        if isinstance(given, Refused):
            return given
    shape = [1, *spec.shape[1:]]
    try:
        row = np.array(given)
    except ValueError:
        return bad(f"The item's numbers are ragged: it has the shape {shape[1:]}.", subject.field)
    if given is None or row.dtype.kind not in "fiu":
        return bad(f"This model reads numbers: give an array of shape {shape[1:]} as JSON.", subject.field)
    if list(row.shape) not in (shape, shape[1:]):
        return bad(f"The item has shape {list(row.shape)}, the model takes {shape[1:]}.", subject.field)
    value = tensors.shaped(row, shape, np.dtype(tensors.DTYPES[spec.datatype]), "data")
    return bad(f"The item {value}.", subject.field) if isinstance(value, str) else {spec.name: value}


def _columns(given: Mapping[str, Any], subject: Subject, entry: Entry) -> list[Any] | Refused:
    """An object's numbers in the order of the features."""
    if not entry.features:
        return bad(f"Give an array of numbers, or an object with {entry.inputs[0].name!r}.", subject.field)
    for name in entry.features:
        if name not in given:
            return bad(f"The feature {name!r} is missing: this model takes {', '.join(entry.features)}.", subject.field)
    if unknown := given.keys() - set(entry.features):
        return bad(f"This model has no feature {min(unknown)!r:.80}.", subject.field)
    return [given[name] for name in entry.features]


def chosen_classes(question: Question, classes: Sequence[str]) -> list[int] | Refused:
    """The class each option stands for; of a predicate, the one class that it names as a word."""
    if question.kind != PREDICATE:
        found = []
        for i, option in enumerate(question.options):
            place = _class_of(option, classes)
            if place is None:
                message = f"An option is one of this model's classes: {', '.join(classes)}."
                return bad(message, f"{question.options_field}[{i}]")
            found.append(place)
        return found
    told = [option.description for option in question.options if option.value is True and option.description]
    text = " ".join((question.instructions, *told))
    named = [i for i, name in enumerate(classes) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]
    if len(named) != 1:
        message = f"A predicate for this model names one of its classes: {', '.join(classes)}."
        return bad(message, f"{question.field}.instructions")
    return named


def _class_of(option: Option, classes: Sequence[str]) -> int | None:
    """By name; of two classes, the second is what is true."""
    if isinstance(option.value, bool):
        return int(option.value) if len(classes) == 2 else None
    return classes.index(option.value) if option.value in classes else None


def _shares(row: np.ndarray, question: Question, places: Sequence[int]) -> np.ndarray:
    """Of those classes that were offered; nothing for any of them leaves them alike."""
    offered = row[list(places)]
    if question.kind == PREDICATE:
        return offered
    total = offered.sum()
    return offered / total if total > 0 else np.full(len(offered), 1 / len(offered))


def option_texts(question: Question) -> list[str] | Refused:
    """What the subject is compared with: a predicate's criteria if it has both, else what it says."""
    if question.kind == PREDICATE and len([option for option in question.options if option.description]) < 2:
        described = [option.description for option in question.options if option.value is True and option.description]
        return [": ".join(part for part in (question.instructions, *described) if part)]
    for i, option in enumerate(question.options):
        if not option.text:
            message = "An option is a text, or true or false with a description."
            return bad(message, f"{question.options_field}[{i}]")
    return [option.text for option in question.options]


def _likeness(cosines: np.ndarray, question: Question) -> np.ndarray:
    if len(cosines) == 1:
        return 1 / (1 + np.exp((LIKE - cosines) / TEMPERATURE))
    powers = np.exp((cosines - cosines.max()) / TEMPERATURE)
    shares = powers / powers.sum()
    return shares[:1] if question.kind == PREDICATE else shares


def confidence(probabilities: np.ndarray) -> float:
    """1 when one option has it all, 0 when they are alike; of two options, |2p - 1|."""
    count = len(probabilities)
    return float((count * probabilities.max() - 1) / (count - 1))


def decision_reply(asked: Asked, answered: Answered) -> dict[str, Any]:
    """OpenAI's `Decision`."""
    pairs = zip(asked.questions, answered.probabilities, strict=True)
    return {
        "model": asked.model,
        "answers": [_decision(question, probabilities) for question, probabilities in pairs],
        "usage": {
            "input_tokens": answered.tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answered.tokens,
        },
    }


def _decision(question: Question, probabilities: np.ndarray) -> dict[str, Any]:
    head = {"type": question.kind, "name": question.name}
    if question.kind == PREDICATE:
        return {**head, "probability": float(probabilities[0])}
    values = [option.value for option in question.options]
    shares = probabilities.tolist()
    if question.kind == CHOICE:
        told: list[dict[str, Any]] = [
            {"value": value, "probability": share} for value, share in zip(values, shares, strict=True)
        ]
        best: dict[str, Any] = {"choice": values[int(probabilities.argmax())]}
    else:
        told = [{"label": v, "value": i, "probability": s} for i, (v, s) in enumerate(zip(values, shares, strict=True))]
        best = {"score": expected(probabilities)}
    return {**head, **best, "confidence": confidence(probabilities), "probabilities": told}


def systemone_reply(asked: Asked, answered: Answered) -> dict[str, Any]:
    """TypeSafe's answer; a level's name is its number, the legend says what it is."""
    pairs = zip(asked.questions, answered.probabilities, strict=True)
    return {
        "model": asked.model,
        "answers": {question.name: _systemone(question, probabilities) for question, probabilities in pairs},
        "usage": {"input_tokens": answered.tokens, "output_tokens": 0},
    }


def _systemone(question: Question, probabilities: np.ndarray) -> dict[str, Any]:
    if question.kind == PREDICATE:
        return {"type": "noul", "noul": float(probabilities[0])}
    values = [str(option.value) for option in question.options]
    sure = {"confidence": confidence(probabilities)}
    if question.kind == CHOICE:
        best = values[int(probabilities.argmax())]
        told = dict(zip(values, probabilities.tolist(), strict=True))
        return {"type": "choice", "choice": best, **sure, "probabilities": told}
    legend = {str(i): value for i, value in enumerate(values)}
    told = dict(zip(legend, probabilities.tolist(), strict=True))
    return {"type": "score", "score": expected(probabilities), **sure, "probabilities": told, "legend": legend}


def expected(probabilities: np.ndarray) -> float:
    """The level to expect, counted from 0."""
    return float(probabilities @ np.arange(len(probabilities)))
