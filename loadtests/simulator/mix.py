"""What is asked for, sorted into kinds: gateway x deadline class x bucket of sizes. The rows of the fluid program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loadtests.simulator.serving import reply_bytes
from loadtests.simulator.world import World, WorldError
from loadtests.sizes import BLOCK_TOKENS, Floats, Ints
from loadtests.workload import Class, Planned

BUCKETS = 8
"""Of prompt sizes, equally many requests in each."""
OUTPUT_BUCKETS = 4
"""Of answers, within each of them, for classes whose deadline includes the answer."""
SAMPLE = 40_000
"""Requests from which a steady mix is taken."""
SEED = 0x10AD


class Kind(NamedTuple):
    """Requests alike enough."""

    gateway: str
    """Its region."""
    asked: Class
    bucket: int
    """Of prompt sizes."""
    share: float
    """Of all requests."""
    prompt: float
    """Mean tokens to prefill..."""
    least_prompt: float
    """...and those of the smallest request, which decides whom the kind can go to."""
    output: float
    least_output: float
    reply_bytes: float


class Mix(NamedTuple):
    kinds: tuple[Kind, ...]
    edges: Floats
    """Between the prompt buckets."""

    def bucket(self, prompt: float) -> int:
        """Where a prompt of so many tokens belongs."""
        return int(np.searchsorted(self.edges, prompt, side="right"))


def typical(world: World) -> Mix:
    """What a world's demand comes to in the long run."""
    return sort_out(world, world.demand.plan(SAMPLE / world.seconds, world.seconds, world.origins(), SEED))


def sort_out(world: World, plan: Sequence[Planned]) -> Mix:
    """The kinds of a plan. Raises WorldError when there is nothing in it."""
    if not plan:
        raise WorldError(f"{world.name}: nothing is asked for")
    prompts = _to_prefill(plan)
    outputs = np.array([planned.output_tokens for planned in plan], np.float64)
    edges = np.unique(np.quantile(prompts, np.arange(1, BUCKETS) / BUCKETS))
    gateways = {origin: entrance(world, origin) for origin in {planned.origin for planned in plan}}
    names = sorted(set(gateways.values()))
    classes = list(dict.fromkeys(planned.kind for planned in plan))
    numbers = {kind: number for number, kind in enumerate(classes)}
    timed = np.array([kind.total_s is not None for kind in classes])
    asked = np.array([numbers[planned.kind] for planned in plan])
    keys = np.stack(
        (
            np.array([names.index(gateways[planned.origin]) for planned in plan]),
            asked,
            np.searchsorted(edges, prompts, side="right"),
            np.where(timed[asked], _levels(outputs), 0),
        ),
        axis=1,
    )
    found, where = np.unique(keys, axis=0, return_inverse=True)
    kinds = []
    for row, (name, number, bucket, _) in enumerate(found.tolist()):
        own = where == row
        kind, output = classes[number], float(outputs[own].mean())
        mean, least = float(prompts[own].mean()), float(prompts[own].min())
        stream = plan[int(np.flatnonzero(own)[0])].stream
        kinds.append(
            Kind(
                names[name], kind, bucket, float(own.mean()), mean, least, output, float(outputs[own].min()),
                reply_bytes(output, stream),
            )
        )  # fmt: skip
    return Mix(tuple(kinds), edges)


def entrance(world: World, origin: str) -> str:
    """The region of the gateway that a region's clients use: its own, or else the nearest."""
    if origin in world.gateways:
        return origin
    return min(world.gateways, key=lambda gateway: world.round_trip(origin, gateway).avg_ms)


def _levels(outputs: Floats) -> Ints:
    edges = np.unique(np.quantile(outputs, np.arange(1, OUTPUT_BUCKETS) / OUTPUT_BUCKETS))
    return np.searchsorted(edges, outputs, side="right")


def _to_prefill(plan: Sequence[Planned]) -> Floats:
    """Prompt tokens that somebody has to compute: how any earlier prompt began, everybody may remember."""
    seen: set[int] = set()
    tokens = []
    for planned in plan:
        hits = 0
        for block in planned.prefix:
            if block not in seen:
                break
            hits += 1
        seen.update(planned.prefix)
        tokens.append(max(1.0, planned.prompt_tokens - hits * BLOCK_TOKENS))
    return np.array(tokens)
