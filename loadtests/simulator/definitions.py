"""Worlds from YAML: one file, what it extends, what is overridden, and the cases it spans.

    extends: headline.yaml      merged under this file: mappings key by key, lists and values replaced, `null` removes
    vary: {load: [0.5, 0.7]}    every combination of the values of these dotted paths
    cases: {one: {...}}         named sets of keys, each merged over the world in turn; with `vary`, every combination
    set: {load: 0.7}            values of dotted paths, put in last

In a dotted path `*` stands for all entries of a list, a name for those of that name. What is extended lies beside the
file that names it, or ships (`headline`). Whatever is wrong is said with file and field.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from ruamel.yaml import YAML, YAMLError

from loadtests.simulator.result import Value
from loadtests.simulator.servable import check
from loadtests.simulator.tables import Tables
from loadtests.simulator.world import World, WorldError

NO_TABLES = Tables()


class Case(NamedTuple):
    """One world of a scenario, and what of it was varied."""

    label: dict[str, Value]
    world: World


class Definition(NamedTuple):
    """A scenario: one world, or several that differ in what is varied."""

    name: str
    about: str
    cases: tuple[Case, ...]


def read(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    base: str | Path | None = None,
    tables: Tables = NO_TABLES,
) -> Definition:
    """A scenario by path or shipped name.

    `overrides` are dotted paths and their values; a list of values varies them where one is due. `base` is a world to
    lay the scenario's own lines on, in place of the one that it extends. Raises FileError.
    """
    path = find(source)
    raw = _layers(path, None if base is None else find(base), ())
    vary, cases, fixed = (raw.pop(name, None) or {} for name in ("vary", "cases", "set"))
    for name, part, each in (("vary", vary, list), ("cases", cases, dict), ("set", fixed, object)):
        if not isinstance(part, dict) or not all(isinstance(value, each) for value in part.values()):
            raise WorldError(f"{path}: {name}: a mapping was expected, of {_EXPECTED[name]}")
    asked = dict(overrides or {})
    vary = {dotted: values for dotted, values in vary.items() if dotted not in asked}
    vary |= {dotted: asked.pop(dotted) for dotted in [*asked] if dotted in VARIED and isinstance(asked[dotted], list)}
    made = []
    for label, tree in _spanned(path, raw, vary, cases, fixed):
        if base is not None or tables.round_trips is not None or any(not dotted.startswith(KEEP) for dotted in asked):
            tree.pop("full_rate", None)  # it was another world's
        for dotted, value in asked.items():
            put(path, tree, dotted, value)
        made.append(Case(label, _world(path, tree, tables)))
    return Definition(made[0].world.name, made[0].world.about, tuple(made))


_EXPECTED = {"vary": "lists of values", "cases": "mappings of keys", "set": "dotted paths to values"}
VARIED = frozenset({"load", "control.heartbeat_s", "serving.queue"})
"""Fields of one value of which a caller may give several."""
KEEP = ("load", "seconds", "warm_up", "control.", "serving.queue", "faults")
"""Beginnings of what can be overridden without changing how much could be served at best."""


def shipped() -> list[str]:
    """Names of the worlds that ship: all of `loadtests/scenarios/` but the demo's."""
    folder = resources.files("loadtests") / "scenarios"
    names = (file.name for file in folder.iterdir() if file.name.endswith(".yaml"))
    return sorted(name.removesuffix(".yaml") for name in names if name != "demo.yaml")


def find(source: str | Path, near: Path | None = None) -> Path:
    """The file a name stands for: beside `near`, as a path, or shipped."""
    name = str(source)
    places = [near.parent / name] if near is not None else []
    places.append(Path(name))
    ours = Path(str(resources.files("loadtests") / "scenarios"))
    places += [ours / name, ours / f"{name}.yaml", *ours.glob(f"s[0-9][0-9]_{name}.yaml")]
    for place in places:
        if place.is_file():
            return place
    raise WorldError(f"{name}: no such file, and no scenario of that name ships; there are {', '.join(shipped())}")


def _layers(path: Path, base: Path | None, below: tuple[Path, ...]) -> dict[str, Any]:
    """A file over what it extends (or over `base`)."""
    if path in below:
        raise WorldError(f"{path}: extends: it extends itself")
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise WorldError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise WorldError(f"{path}: a mapping was expected")
    trace = raw.get("demand", {}).get("trace") if isinstance(raw.get("demand"), dict) else None
    if isinstance(trace, str):
        raw["demand"]["trace"] = str(path.parent / trace)
    parent = raw.pop("extends", None)
    if base is not None and path != base:
        return merged(_layers(base, None, (*below, path)), raw)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise WorldError(f"{path}: extends: the name of a file was expected")
    return merged(_layers(find(parent, path), None, (*below, path)), raw)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: mappings key by key, everything else replaced; None removes."""
    tree = dict(under)
    for key, value in over.items():
        if value is None:
            tree.pop(key, None)
        elif isinstance(value, dict) and isinstance(tree.get(key), dict):
            tree[key] = merged(tree[key], value)
        else:
            tree[key] = value
    return tree


def _spanned(
    path: Path,
    raw: dict[str, Any],
    vary: Mapping[str, list[Any]],
    cases: Mapping[str, dict[str, Any]],
    fixed: Mapping[str, Any],
) -> Iterator[tuple[dict[str, Value], dict[str, Any]]]:
    """Every case's label and tree."""
    for dotted, values in vary.items():
        if not values or not all(isinstance(value, Value) for value in values):
            raise WorldError(f"{path}: vary: {dotted}: a list of plain values was expected (see `cases` for others)")
    for name, keys in (cases or {"": {}}).items():
        for chosen in itertools.product(*vary.values()):
            tree = deepcopy(merged(raw, keys))
            varied = dict(zip(vary, chosen, strict=True))
            for dotted, value in (fixed | tree.pop("set", {}) | varied).items():
                put(path, tree, dotted, value)
            yield ({"case": str(name)} if name else {}) | varied, tree


def put(path: Path, tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set what a dotted path names: keys of mappings, and entries of lists by number, by name, or all by `*`."""
    missing = _put(tree, dotted, value)
    if missing is not None:
        raise WorldError(f"{path}: {dotted}: there is no {missing!r} to set")


def _put(tree: Any, dotted: str, value: Any) -> str | None:
    """The part of the path that names nothing; None when all do."""
    head, _, rest = dotted.partition(".")
    keys: list[Any] = []
    if isinstance(tree, dict):
        keys = list(tree) if head == "*" else [head]
    elif isinstance(tree, list):
        named = [isinstance(entry, dict) and entry.get("name") == head for entry in tree]
        keys = [i for i in range(len(tree)) if head in ("*", str(i)) or named[i]]
    if not keys:
        return head
    for key in keys:
        if not rest:
            tree[key] = value
            continue
        if isinstance(tree, dict):
            tree.setdefault(key, {})
        missing = _put(tree[key], rest, value)
        if missing is not None:
            return missing
    return None


def _world(path: Path, tree: dict[str, Any], tables: Tables) -> World:
    tree.setdefault("name", path.stem)
    try:
        world = msgspec.convert(tree, World)
    except msgspec.ValidationError as error:
        raise WorldError(f"{path}: {error}") from error
    world = tables.apply(world)
    fault = check(world)
    if fault is not None:
        raise WorldError(f"{path}: {fault}")
    return carbon_priced(world)


def carbon_priced(world: World) -> World:
    """The world with its price of carbon in what an hour of its nodes costs. Boards alone: no host, no cooling."""
    usd_per_gram = world.carbon_usd_per_tonne / 1e6
    nodes = tuple(
        msgspec.structs.replace(
            group,
            usd_per_hour=group.usd_per_hour
            + world.profiles[group.profiles[0]].power_watts
            / 1e3
            * world.regions[group.region].carbon_g_per_kwh
            * usd_per_gram,
        )
        for group in world.nodes
    )
    return msgspec.structs.replace(world, nodes=nodes) if usd_per_gram else world
