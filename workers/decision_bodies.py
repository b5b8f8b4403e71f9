"""Bodies of the two decision surfaces, read into the same questions about the same subject.

`/v1/decisions` is OpenAI's: predicate, choice and score about an input. `/v1/systemone` is TypeSafe's (OpenAPI 0.2.0),
whose noul is a predicate, whose criteria are the choices or levels, and whose questions have ids. What the questions
are answered with is decisions.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import orjson
from msgspec import Meta

from workers.http import invalid
from workers.openai_bodies import TEXT_PARTS
from workers.queue import Refused, bad

PREDICATE, CHOICE, SCORE = "predicate", "choice", "score"
KINDS = {"noul": PREDICATE, "choice": CHOICE, "score": SCORE}
"""System One's words -> ours, which are OpenAI's."""
MAX_QUESTIONS = 400
"""OpenAI's own bounds: so many questions, so many choices of each."""
MAX_OPTIONS = 255


class Option(NamedTuple):
    """One possible answer."""

    value: str | bool
    description: str = ""

    @property
    def text(self) -> str:
        """What it means, in words."""
        named = self.value if isinstance(self.value, str) else ""
        return ": ".join(part for part in (named, self.description) if part)


class Question(NamedTuple):
    """One question, whichever surface it came on."""

    field: str
    """Where it stands in the body."""
    name: str | None
    kind: str
    instructions: str
    options: tuple[Option, ...] = ()
    """A predicate has none, or what is true and what is false."""
    options_field: str = ""


class Subject(NamedTuple):
    """What the questions are about."""

    field: str
    text: str
    data: Any = None
    """The one JSON value it consists of, if it does."""


class Asked(NamedTuple):
    """A request."""

    model: str
    subject: Subject
    questions: tuple[Question, ...]


class _Choice(msgspec.Struct):
    value: str | bool
    description: str | None = None


class _Level(msgspec.Struct):
    label: str
    description: str | None = None


class _Question(msgspec.Struct, kw_only=True):
    type: str
    instructions: str | list[Any]
    name: str | None = None
    choices: list[_Choice] = []
    levels: list[_Level] = []


class DecisionBody(msgspec.Struct, kw_only=True):
    """`POST /v1/decisions`."""

    model: str
    input: str | list[dict[str, Any]]
    questions: Annotated[list[_Question], Meta(min_length=1, max_length=MAX_QUESTIONS)]


class _Criteria(msgspec.Struct, kw_only=True):
    type: str
    instructions: str | dict[str, Any] | list[Any] = ""
    criteria: dict[str, Any] | list[Any] | None = None


class SystemOneBody(msgspec.Struct, kw_only=True):
    """`POST /v1/systemone`."""

    model: str
    state: str | dict[str, Any] | list[Any]
    questions: Annotated[dict[str, _Criteria], Meta(min_length=1, max_length=MAX_QUESTIONS)]


def read_decision(raw: bytes) -> Asked | Refused:
    """OpenAI's shape."""
    try:
        body = msgspec.json.decode(raw, type=DecisionBody)
    except msgspec.MsgspecError as error:
        return invalid(error)
    subject = _input(body.input)
    if isinstance(subject, Refused):
        return subject
    questions = []
    for i, asked in enumerate(body.questions):
        question = _question(asked, f"questions[{i}]")
        if isinstance(question, Refused):
            return question
        questions.append(question)
    return Asked(body.model, subject, tuple(questions))


def _question(asked: _Question, field: str) -> Question | Refused:
    if asked.type not in KINDS.values():
        return bad("A question is a predicate, a choice or a score.", f"{field}.type")
    instructions = parts_text(asked.instructions, f"{field}.instructions")
    if isinstance(instructions, Refused):
        return instructions
    options: tuple[Option, ...] = ()
    where = ""
    if asked.type == CHOICE:
        options = tuple(Option(choice.value, choice.description or "") for choice in asked.choices)
        where = f"{field}.choices"
    elif asked.type == SCORE:
        options = tuple(Option(level.label, level.description or "") for level in asked.levels)
        where = f"{field}.levels"
    return _checked(Question(field, asked.name, asked.type, instructions, options, where))


def read_systemone(raw: bytes) -> Asked | Refused:
    """TypeSafe's shape."""
    try:
        body = msgspec.json.decode(raw, type=SystemOneBody)
    except msgspec.MsgspecError as error:
        return invalid(error)
    text = body.state if isinstance(body.state, str) else msgspec.json.encode(body.state).decode()
    subject = Subject("state", text, _parsed(text))
    questions = []
    for name, asked in body.questions.items():
        question = _criteria(asked, name, f"questions.{name}")
        if isinstance(question, Refused):
            return question
        questions.append(question)
    return Asked(body.model, subject, tuple(questions))


def _criteria(asked: _Criteria, name: str, field: str) -> Question | Refused:
    kind = KINDS.get(asked.type)
    if kind is None:
        return bad("A question is a noul, a choice or a score.", f"{field}.type")
    instructions = asked.instructions
    text = instructions if isinstance(instructions, str) else msgspec.json.encode(instructions).decode()
    where, given = f"{field}.criteria", asked.criteria
    options: tuple[Option, ...] = ()
    if kind == SCORE:
        if not isinstance(given, list):
            return bad("The levels of a score are an array, from low to high.", where)
        options = tuple(Option(_said(level)) for level in given)
    elif kind == CHOICE:
        if not isinstance(given, dict):
            return bad("The criteria of a choice are an object: each option with its description or null.", where)
        options = tuple(Option(value, _said(description)) for value, description in given.items())
    elif isinstance(given, dict) and given.keys() <= {"true", "false"}:
        options = tuple(Option(value == "true", _said(given[value])) for value in ("true", "false") if value in given)
    elif given is not None:
        return bad("The criteria of a noul are an object with `true` and `false`.", where)
    return _checked(Question(field, name, kind, text, options, where))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()


def _checked(question: Question) -> Question | Refused:
    """Bounds, and that every option is there once."""
    values = [(type(option.value), option.value) for option in question.options]
    if question.kind != PREDICATE and not 2 <= len(values) <= MAX_OPTIONS:
        return bad(f"It takes 2 to {MAX_OPTIONS} options.", question.options_field)
    if len(set(values)) < len(values):
        return bad("Every option is given once.", question.options_field)
    if question.kind == PREDICATE and not question.instructions and not question.options:
        return bad("There is nothing to be true or false: say it.", f"{question.field}.instructions")
    return question


def _input(given: str | Sequence[dict[str, Any]]) -> Subject | Refused:
    """A text, or messages and calls of tools, whose texts follow each other."""
    if isinstance(given, str):
        return Subject("input", given, _parsed(given))
    texts = []
    for i, item in enumerate(given):
        field = f"input[{i}]"
        kind = item.get("type", "message")
        if kind in ("function_call", "custom_tool_call"):
            said: str | Refused = f"{item.get('name')} {item.get('arguments', item.get('input'))}"
        elif kind in ("function_call_output", "custom_tool_call_output"):
            said = parts_text(item.get("output"), f"{field}.output")
        elif kind == "message":
            said = parts_text(item.get("content"), f"{field}.content")
        else:
            return bad("An item is a message, or a call of a tool, or its output.", f"{field}.type")
        if isinstance(said, Refused):
            return said
        texts.append(said)
    text = "\n".join(texts)
    return Subject("input", text, _parsed(text))


def parts_text(content: Any, field: str) -> str | Refused:
    """A text, or a list of parts: texts as they are, JSON as compact JSON. Images are not read here."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return bad("It is a text or a list of parts.", field)
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "input_json" and isinstance(part.get("data"), dict | list):
            texts.append(msgspec.json.encode(part["data"]).decode())
        else:
            return bad("This model reads parts of type input_text and input_json.", f"{field}[{i}]")
    return "\n".join(texts)


def _parsed(text: str) -> Any:
    """The JSON object or array that a text is; None when it is just a text."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
