"""What another policy would have made of what was: the history's own figures beside simulated ones.

The policy that was is simulated too: how far its simulated figures are from the logged ones is how far the others
are to be trusted. Costs are compared on the same requests, the same fleet and the same prices.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from ruamel.yaml import YAML, YAMLError

from loadtests.rows import FileError
from loadtests.simulator import foreign, mapping, replay
from loadtests.simulator.call import Call
from loadtests.simulator.contender import Watching
from loadtests.simulator.contenders import CONTENDERS, product, watching
from loadtests.simulator.history import Account, History, Past, account, cut, plan, world
from loadtests.simulator.runs import Make, Simulation
from policies.candidates import Candidates
from policies.config import PolicyConfig

LOGGED = "as logged"
RESIMULATED = "simulated again"
"""The logged policy; where nobody knows one, the very choices that were made."""
CHOICES = "the same choices"
DEFAULT = "isochrone"
MOST = 300_000
"""Requests that are simulated of a log: about two minutes for each policy."""


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, also as JSON."""

    source: str
    requests: float
    seconds: float
    gateways: tuple[str, ...]
    workers: int
    logged_policy: str
    """As what the logged decisions are simulated again; `the same choices` when nobody knows."""
    logged: Account
    policies: dict[str, Account]
    """By name; `simulated again` is the logged one."""
    notes: tuple[str, ...]


def read(replays: Sequence[Path], log: Path | None, meaning: Path | None) -> History:
    """The history that logs tell: of our own, or a foreign one by its mapping. Raises FileError."""
    if log is not None and meaning is not None:
        found = foreign.history(log, mapping.read(meaning))
    else:
        found = replay.history(replays)
    return cut(found, MOST)


def named(policy: str) -> tuple[str, Make]:
    """A policy by its name, or a YAML file with one. Raises FileError."""
    if policy in CONTENDERS:
        return policy, CONTENDERS[policy]
    path = Path(policy)
    if path.suffix not in (".yaml", ".yml"):
        known = ", ".join(sorted(CONTENDERS))
        raise FileError(f"no policy is called {policy!r}: write the path of a .yaml file, or one of {known}")
    try:
        config = msgspec.convert(YAML(typ="safe", pure=True).load(path.read_text()) or {}, PolicyConfig)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except (YAMLError, msgspec.ValidationError) as error:
        raise FileError(f"{path}: {error}: write one policy, as it stands under `policies:` of gateway.yaml") from error
    return path.stem, product(config)


def compare(
    history: History, policies: Sequence[tuple[str, Make]], seed: int, told: Callable[[str], None] = lambda name: None
) -> WhatIf:
    """Simulate the logged policy and the others. `told` hears each name before it runs. Raises WorldError."""
    was, note = _logged_policy(history)
    accounts = {}
    for name, make in ((RESIMULATED, CONTENDERS.get(was, pinned)), *policies):
        told(name)
        accounts[name] = simulate(history, make, seed)
    counted = history.counted()
    return WhatIf(
        source=history.source,
        requests=sum(one.stands_for for one in counted),
        seconds=history.seconds - history.warm_up,
        gateways=history.gateways,
        workers=sum(group.count for group in history.fleet),
        logged_policy=was,
        logged=account(counted),
        policies=accounts,
        notes=(*history.notes, *note),
    )


def simulate(history: History, make: Make, seed: int) -> Account:
    """The figures of one policy, over the same requests as the history's own."""
    simulation = Simulation(world(history), make, seed, plan(history, seed, pinned=make is pinned))
    simulation.run()
    return account([past(call) for call in simulation.ledger.counted()])


def past(call: Call) -> Past:
    """A simulated request in the words of a history."""
    arrived = call.request.arrived
    answered = call.worker is not None and call.ended is not None
    return Past(
        at=arrived,
        region=call.origin,
        kind=call.kind,
        prompt_tokens=call.prompt,
        output_tokens=call.output,
        tenant=call.tenant,
        first=call.first - arrived if answered and call.first is not None else None,
        total=call.ended - arrived if answered and call.ended is not None else None,
        met=call.met,
        refused=not call.tried,
        cost=call.usd,
        attempts=call.attempts,
        served=call.worker.region if call.worker is not None else "",
    )


class Pinned(Watching):
    """Sends every request to the worker that had it."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        end = f"-{candidates.request.affinity}"
        nodes = enumerate(candidates.columns.nodes)
        return next((slot for slot, node in nodes if candidates.eligible[slot] and node.worker.id.endswith(end)), None)


pinned = watching(lambda setting: Pinned())


def _logged_policy(history: History) -> tuple[str, tuple[str, ...]]:
    """Under which name to simulate what was, and what there is to say of it. Foreign logs know no name."""
    names = Counter(one.policy for one in history.past if one.policy)
    if not names:
        return CHOICES, ()
    name = names.most_common(1)[0][0]
    notes = () if len(names) == 1 else (f"Policies in the log: {', '.join(sorted(names))}; {name} decided most.",)
    if name in CONTENDERS:
        return name, notes
    return DEFAULT, (*notes, f"{name} is none of the presets: it is simulated again as the default policy.")


# For people.


def table(answer: WhatIf) -> Table:
    """A row per policy, and what each saves against the simulated logged one."""
    fleet = f"{len(answer.gateways)} gateways, {answer.workers} workers"
    title = f"{answer.source}: {answer.requests:,.0f} requests in {answer.seconds:,.0f} s, {fleet}"
    made = Table(title=title, title_justify="left")
    made.add_column("policy")
    columns = ("in deadline", "missed", "cost $", "$/1k in deadline", "saves", "first p50", "p99", "total p50", "p99")
    for name in (*columns, "refused"):
        made.add_column(name, justify="right")
    base = answer.policies[RESIMULATED]
    made.add_row(LOGGED, *_cells(answer.logged, None))
    for name, one in answer.policies.items():
        shown = f"{answer.logged_policy}, {name}" if name == RESIMULATED else name
        made.add_row(shown, *_cells(one, base if one is not base else None))
    return made


def _cells(one: Account, base: Account | None) -> list[str]:
    saves = ""
    if base is not None and math.isfinite(one.cost_per_1k) and math.isfinite(base.cost_per_1k) and base.cost_per_1k:
        saves = f"{1.0 - one.cost_per_1k / base.cost_per_1k:+.1%}"
    times = (one.first_p50_s, one.first_p99_s, one.total_p50_s, one.total_p99_s)
    return [
        f"{one.attainment:.2%}", f"{one.missed:,.0f}", f"{one.cost:.4g}", f"{one.cost_per_1k:.4g}", saves,
        *("-" if math.isnan(seconds) else f"{seconds:.3f} s" for seconds in times), f"{one.rejected:.2%}",
    ]  # fmt: skip


def error(answer: WhatIf) -> str:
    """How far the simulation of what was is from what was, in words."""
    again, was = answer.policies[RESIMULATED], answer.logged
    points = (again.attainment - was.attainment) * 100
    parts = [f"{points:+.1f} points in deadline"]
    for name, field in (("cost", "cost_per_1k"), ("first p50", "first_p50_s"), ("first p99", "first_p99_s"),
                        ("total p50", "total_p50_s"), ("total p99", "total_p99_s")):  # fmt: skip
        before, after = getattr(was, field), getattr(again, field)
        if before and math.isfinite(before) and math.isfinite(after):
            parts.append(f"{name} {after / before - 1.0:+.0%}")
    return f"The model's error, simulated again against logged: {', '.join(parts)}."


def encode(answer: WhatIf) -> dict[str, Any]:
    """JSON has no infinities: a figure that is none is null."""
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return told
