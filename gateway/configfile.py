"""YAML into structs, with errors that name the file, the line, the path of the field and what would be right.

YAML 1.2 by ruamel.yaml (so `NO` is Norway, not false), plain data only, repeated keys refused. The tree with line
numbers is built only once something is wrong.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

T = TypeVar("T")
MAX_MISTAKES = 20
"""Listed at once; with more than this, a person reads the manual."""
MAX_BYTES = 4 * 1024 * 1024
"""A configuration larger than this is a mistake, such as a data file's name given for it."""


class ConfigError(Exception):
    """A configuration that is not used. `str()` is the whole text for a person: a line for each mistake found.

    Its fields are those of the first mistake; `others` are the rest.
    """

    def __init__(
        self, path: str, problem: str, file: str = "", line: int | None = None, others: Sequence[ConfigError] = ()
    ) -> None:
        place = f"{file}:{line}" if file and line else file
        own = ": ".join(part for part in (place, path, problem) if part)
        super().__init__("\n".join([own, *map(str, others)]))
        self.path, self.problem, self.file, self.line = path, problem, file, line
        self.others = tuple(others)


def joined(errors: Sequence[ConfigError]) -> ConfigError:
    """Several mistakes, each given alone, as one error. At least one."""
    first, *rest = errors
    return ConfigError(first.path, first.problem, first.file, first.line, rest)


Spot = Callable[[ConfigError], ConfigError]
"""Adds the file and the line to an error about a path."""


def read(path: Path, shape: type[T]) -> tuple[T, Spot]:
    """Read a file. Raises `ConfigError`; the second value finds the lines of errors found later."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("", f"larger than {MAX_BYTES} bytes: is this the right file?", str(path))
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError("", f"cannot be read: {error.strerror or error}", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("", "not UTF-8 text", str(path)) from None
    return parse(text, str(path), shape)


def parse(text: str, file: str, shape: type[T]) -> tuple[T, Spot]:
    """Parse YAML into `shape`. An empty text is an empty mapping."""
    try:
        data = _yaml().load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        problem = str(error.problem or error.context or "not YAML").strip().splitlines()[0]
        raise ConfigError("", problem, file, line) from None
    except (YAMLError, ValueError) as error:
        raise ConfigError("", f"not YAML: {str(error).splitlines()[0]}", file) from None
    data = {} if data is None else data

    def place(error: ConfigError) -> ConfigError:
        each = (ConfigError(error.path, error.problem), *error.others)
        placed = [ConfigError(one.path, one.problem, file, _line(text, one.path)) for one in each]
        return joined(sorted(placed, key=lambda one: one.line or 0))

    try:
        return msgspec.convert(data, shape), place
    except msgspec.ValidationError:
        raise place(joined(_mistakes(data, shape))) from None


def suggest(word: str, known: Iterable[str]) -> str:
    """Name the nearest known word, or all of them."""
    choices = sorted(known)
    near = [choice for choice in choices if word and choice.startswith(word)]
    near = near or difflib.get_close_matches(word, choices, 1, 0.6)
    return f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(f"`{choice}`" for choice in choices)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)  # the C loader speaks YAML 1.1
    yaml.allow_duplicate_keys = False
    return yaml


# What is wrong.

_WHERE = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<key>key` in `)?(?P<path>\$.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_INVALID = re.compile(r"Invalid (?:enum )?value (.*)")


def _mistakes(data: Any, shape: Any) -> list[ConfigError]:
    """Every mistake: each is cut out once it was found, and what is left converted again."""
    found: list[ConfigError] = []
    cut: set[Steps] = set()
    while len(found) < MAX_MISTAKES:
        rest = _without(data, cut)
        try:
            msgspec.convert(rest, shape)
            break
        except msgspec.ValidationError as error:
            mistake = _explain(error, rest, shape)
        steps = _original(_steps(mistake.path), data, cut)
        if steps in cut:
            break
        found.append(ConfigError(_spelled(steps), mistake.problem))
        cut.add(steps)
    return found


def _without(data: Any, cut: Collection[Steps], at: Steps = ()) -> Any:
    """A copy that lacks what stands at the paths of `cut`."""
    if isinstance(data, dict):
        return {key: _without(value, cut, (*at, key)) for key, value in data.items() if (*at, key) not in cut}
    if isinstance(data, list):
        return [_without(value, cut, (*at, i)) for i, value in enumerate(data) if (*at, i) not in cut]
    return data


def _original(steps: Steps, data: Any, cut: Collection[Steps]) -> Steps:
    """A path in what `_without` left as a path in the whole: an index counts the entries that were cut out, too."""
    found: Steps = ()
    for step in steps:
        there = _value_at(data, found)
        if isinstance(step, int) and isinstance(there, list):
            kept = [i for i in range(len(there)) if (*found, i) not in cut]
            step = kept[step] if step < len(kept) else step
        found = (*found, step)
    return found


def _explain(error: msgspec.ValidationError, data: Any, shape: Any) -> ConfigError:
    """Turn msgspec's message into path, problem and fix."""
    found = _WHERE.match(str(error))
    assert found is not None  # every part of the pattern is optional
    problem, path = found["problem"], found["path"] or "$"
    path = _name_keys(path, str(error), data, shape)
    if found["key"]:
        return ConfigError(path, f"bad key: {problem[0].lower()}{problem[1:]}")
    types = _types_at(path, shape)
    unknown = _UNKNOWN.fullmatch(problem)
    if unknown:
        known = [field.encode_name for kind in types if isinstance(kind, inspect.StructType) for field in kind.fields]
        tags = [kind.tag_field for kind in types if isinstance(kind, inspect.StructType) and kind.tag_field]
        return ConfigError(f"{path}.{unknown[1]}", f"unknown field: {suggest(unknown[1], {*known, *tags})}")
    invalid = _INVALID.fullmatch(problem)
    if invalid:
        known = _values(types) or _tags(path, shape)
        return ConfigError(path, f"{problem}: {suggest(invalid[1].strip(chr(39)), known)}" if known else problem)
    return ConfigError(path, problem)


def _name_keys(path: str, message: str, data: Any, shape: Any) -> str:
    """Put the keys back that msgspec writes as `[...]`: try the entries of that mapping one at a time."""
    while "[...]" in path:
        before, _, after = path.partition("[...]")
        mapping = _value_at(data, _steps(before))
        if not isinstance(mapping, dict):
            return path
        whole = dict(mapping)
        for key, value in whole.items():
            mapping.clear()
            mapping[key] = value
            same = _fails(data, shape) == message
            mapping.clear()
            mapping.update(whole)
            if same:
                path = f"{before}.{key}{after}"
                break
        else:
            return path
    return path


def _fails(data: Any, shape: Any) -> str:
    try:
        msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


# Paths: `$.routes[0].match` is ("routes", 0, "match").

Steps = tuple[str | int, ...]
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def _steps(path: str) -> Steps:
    return tuple(int(index) if index else name for name, index in _STEP.findall(path))


def _spelled(steps: Steps) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _value_at(data: Any, steps: Steps) -> Any:
    for step in steps:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _types_at(path: str, shape: Any) -> list[inspect.Type]:
    """The types a value at `path` may have; of a union, every member."""
    types = _members(inspect.type_info(shape))
    for step in _steps(path):
        types = [inner for outer in types for inner in _members(_inside(outer, step))]
    return types


def _members(kind: inspect.Type | None) -> list[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        return _members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [inner for member in kind.types for inner in _members(member)]
    return [kind] if kind is not None else []


def _inside(kind: inspect.Type, step: str | int) -> inspect.Type | None:
    if isinstance(kind, inspect.StructType):
        return next((field.type for field in kind.fields if field.encode_name == step), None)
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        return kind.item_type
    return kind.value_type if isinstance(kind, inspect.DictType) else None


def _values(types: list[inspect.Type]) -> list[str]:
    values: list[str] = []
    for kind in types:
        if isinstance(kind, inspect.LiteralType):
            values += map(str, kind.values)
        elif isinstance(kind, inspect.EnumType):
            values += (str(member.value) for member in kind.cls)
    return values


def _tags(path: str, shape: Any) -> list[str]:
    """The values a tag field may have: `path` ends in its name, its parent is a union of structs."""
    parent, _, name = path.rpartition(".")
    return [
        str(kind.tag)
        for kind in _types_at(parent, shape)
        if isinstance(kind, inspect.StructType) and kind.tag_field == name and kind.tag is not None
    ]


# Where it is wrong.


def _line(text: str, path: str) -> int | None:
    """The line of a path, or of the nearest thing around it that the file has."""
    node: Node | None = _yaml().compose(io.StringIO(text))
    if node is None or not path:
        return None
    line = int(node.start_mark.line) + 1
    for step in _steps(path):
        found = _child(node, step)
        if found is None:
            break
        line, node = found
    return line


def _child(node: Node, step: str | int) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if str(key.value) == str(step):
                return int(key.start_mark.line) + 1, value
    elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return int(node.value[step].start_mark.line) + 1, node.value[step]
    return None
