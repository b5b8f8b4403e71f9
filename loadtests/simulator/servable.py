"""Whether a world hangs together, and whether anything could be served in it at all.

What single fields may hold the structs themselves say; here stands what takes two of them to see. The first fault
found is told, with the path of the field.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from loadtests import traces
from loadtests.simulator.tables import pairs
from loadtests.simulator.world import Profile, World
from loadtests.workload import Class


def check(world: World) -> str | None:
    """What is wrong with a world; None when nothing is. Raises FileError for what is wrong with its trace."""
    for part in _CHECKS:
        fault = part(world)
        if fault is not None:
            return fault
    return None


def _regions(world: World) -> str | None:
    named: list[tuple[str, Iterable[str]]] = [("gateways", world.gateways)]
    named += [(f"nodes[{i}].region", (nodes.region,)) for i, nodes in enumerate(world.nodes)]
    named += [(f"round_trips[{i}].between", trip.between) for i, trip in enumerate(world.round_trips)]
    for field, names in named:
        for name in names:
            if name not in world.regions:
                return f"{field}: no such region {name!r}; there are {', '.join(sorted(world.regions))}"
    for i, burst in enumerate(world.demand.bursts):
        for name in burst.origins:
            if name not in world.gateways:
                return f"demand.bursts[{i}].origins: no gateway in {name!r}; there are {', '.join(world.gateways)}"
    if not any(world.regions[name].demand for name in world.gateways):
        return "regions: none with a gateway has any demand"
    return None


def _round_trips(world: World) -> str | None:
    joined = Counter(tuple(sorted(trip.between)) for trip in world.round_trips)
    for pair in pairs(world.regions):
        if joined[pair] != 1:
            return f"round_trips: {joined[pair]} entries between {pair[0]} and {pair[1]}, one was expected"
    for i, trip in enumerate(world.round_trips):
        if trip.min_ms > trip.avg_ms:
            return f"round_trips[{i}].min_ms: {trip.min_ms:g} is above avg_ms, {trip.avg_ms:g}"
    return None


def _nodes(world: World) -> str | None:
    for i, nodes in enumerate(world.nodes):
        for name in nodes.profiles:
            if name not in world.profiles:
                return f"nodes[{i}].profiles: no such profile {name!r}; there are {', '.join(sorted(world.profiles))}"
        accelerators = {world.profiles[name].accelerator for name in nodes.profiles}
        if len(accelerators) > 1:
            return f"nodes[{i}].profiles: one worker has one accelerator, these have {', '.join(sorted(accelerators))}"
    for (region, name), times in Counter((nodes.region, nodes.name) for nodes in world.nodes).items():
        if times > 1:
            return f"nodes: {times} entries are called {name!r} in {region}, their workers' ids would be the same"
    return None


def _trace(world: World) -> str | None:
    if world.demand.trace is None:
        return None
    trace = traces.load(world.demand.trace)
    trace.check("region", set(world.gateways))
    trace.check("kind", {kind.name for kind in world.demand.classes})
    return None


def _times(world: World) -> str | None:
    if world.warm_up >= world.seconds:
        return f"warm_up: {world.warm_up:g} s leave nothing of a run of {world.seconds:g} s to be counted"
    if world.serving.slow_share[0] > world.serving.slow_share[1]:
        return "serving.slow_share: the first of a range is its lower end"
    for i, nodes in enumerate(world.nodes):
        if nodes.from_s >= world.seconds:
            return f"nodes[{i}].from_s: they would register after the end, at {world.seconds:g} s"
    for i, fault in enumerate(world.faults):
        if fault.at >= world.seconds:
            return f"faults[{i}].at: it would begin after the end, at {world.seconds:g} s"
    return None


def _classes(world: World) -> str | None:
    """Every class can be served somewhere, by an idle node, for a request of median size."""
    for name, times in Counter(kind.name for kind in world.demand.classes).items():
        if times > 1:
            return f"demand.classes: {name!r} stands there {times} times"
    for i, kind in enumerate(world.demand.classes):
        field = f"demand.classes[{i}] ({kind.name!r})"
        fitting = {
            name for name, profile in world.profiles.items()
            if profile.model == kind.model and profile.quality >= kind.min_quality
        }  # fmt: skip
        served = [(nodes, world.profiles[name]) for nodes in world.nodes for name in nodes.profiles if name in fitting]
        if not served:
            return f"{field}: no node serves model {kind.model!r} at a quality of {kind.min_quality:g} or more"
        prompt, output = world.demand.median(kind)
        ways = {(gateway, nodes.region): world.round_trip(gateway, nodes.region).avg_ms / 1e3
                for gateway in world.gateways for nodes, _ in served}  # fmt: skip
        soonest = [
            _soonest(profile, prompt, output, min(ways[gateway, nodes.region] for gateway in world.gateways))
            for nodes, profile in served
        ]
        for granted, what, place in (
            (kind.first_token_s, "first_token_s", 0),
            (kind.total_s, "total_s", 1),
            (kind.token_interval_s, "token_interval_s", 2),
        ):
            best = min(times[place] for times in soonest)
            if granted is not None and best > granted:
                return (
                    f"{field}.{what}: no policy can serve it: it grants {granted:g} s, and an idle node needs "
                    f"{best:.3g} s at best for {prompt:g} prompt and {output:g} output tokens"
                )
        if not any(_within(kind, times) for times in soonest):
            return f"{field}: no policy can serve it: no node meets all of its deadlines at once"
    return None


def _soonest(profile: Profile, prompt: float, output: float, way: float) -> tuple[float, float, float]:
    """First token, last token and time per token of a request alone on a node."""
    first = way + profile.overhead_s + prompt / profile.prefill_tokens_per_s
    return first, first + output * profile.decode_s, profile.decode_s


def _within(kind: Class, times: tuple[float, float, float]) -> bool:
    granted = (kind.first_token_s, kind.total_s, kind.token_interval_s)
    return all(took <= (math.inf if most is None else most) for took, most in zip(times, granted, strict=True))


_CHECKS: tuple[Callable[[World], str | None], ...] = (_regions, _round_trips, _nodes, _times, _trace, _classes)
