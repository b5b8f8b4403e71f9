"""What a comparison says, in plain words: who won and by how much, and what the world is that it was won in.

Text only: the page and docs/results.md set it in their own type. A difference counts when its paired 95 % interval does
not hold zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from loadtests.simulator.charts import real
from loadtests.simulator.result import Interval
from loadtests.simulator.statistics import OURS, Comparison, percent, plus_minus, ranked
from loadtests.simulator.world import World


def certain(difference: Interval) -> bool:
    """Whether the seeds tell it from zero."""
    return difference.half is not None and abs(difference.mean) > difference.half


def absolute(one: Interval) -> Interval:
    return Interval(abs(one.mean), one.half)


def called(policy: str) -> str:
    return f"{policy} (the shipped policy)" if policy == OURS else policy


def verdict(comparison: Comparison) -> list[str]:
    """Who won, by how much, at what cost, and how far it is to what is possible. One sentence each."""
    ours, rivals = comparison.reference, [name for name in ranked(comparison) if real(name)]
    sentences = []
    if rivals:
        best = rivals[0]
        met = plus_minus(comparison.interval(best, "attainment"), 1, 100)
        sentences.append(
            f"Of the policies a gateway can run, {called(best)} kept the most deadlines: {met} % of what was offered."
        )
        other = next((name for name in rivals if name != ours), None) if best == ours else ours
        if other is not None and real(ours):
            sentences.append(_behind(comparison, other, best))
        if other is not None:
            sentences.append(_costs(comparison, ours, best if best != ours else other))
        cheapest = min(rivals, key=lambda name: _finite(comparison.mean(name, "cost_per_1k")))
        if cheapest not in (ours, best):
            price = comparison.mean(cheapest, "cost_per_1k")
            share = comparison.mean(cheapest, "attainment")
            sentences.append(f"The cheapest was {cheapest}, with ${price:.4f} and {percent(share)} in deadline.")
    accepted, missed = comparison.mean(ours, "accepted_share"), comparison.interval(ours, "miss_rate_accepted")
    if accepted > 0:
        text = plus_minus(missed, 1, 100)
        sentences.append(
            f"{ours} promised {percent(accepted)} of the requests their deadline and broke {text} % of the promises."
        )
    return sentences + _ceilings(comparison)


def _behind(comparison: Comparison, other: str, best: str) -> str:
    difference = comparison.difference(best, "attainment", other)
    share = comparison.mean(other, "attainment")
    if not certain(difference) and difference.half is not None:
        return f"{called(other)} kept {percent(share)}, which these seeds do not tell apart from it."
    points = plus_minus(difference, 1, 100)
    return f"{called(other)} kept {percent(share)}: {points} points fewer of the same requests."


def _costs(comparison: Comparison, ours: str, other: str) -> str:
    mine, theirs = comparison.mean(ours, "cost_per_1k"), comparison.mean(other, "cost_per_1k")
    relative = _relative(mine, theirs).strip()
    compared = f" ({relative})" if relative else ""
    return f"A thousand requests in deadline cost ${mine:.4f} under {ours} and ${theirs:.4f} under {other}{compared}."


def _relative(mine: float, theirs: float) -> str:
    if not (math.isfinite(mine) and math.isfinite(theirs) and theirs > 0):
        return ""
    change = mine / theirs - 1
    return f" {percent(abs(change), 0)} {'less' if change < 0 else 'more'}" if abs(change) >= 0.005 else " the same"


def _ceilings(comparison: Comparison) -> list[str]:
    """What is possible: with every queue seen as it is, and with no queues at all."""
    ours, sentences = comparison.reference, []
    for name in comparison.runs:
        if not real(name) and name != ours:
            difference = comparison.difference(name, "attainment", ours)
            gap, way = plus_minus(absolute(difference), 1, 100), "more" if difference.mean > 0 else "fewer"
            cost = _relative(comparison.mean(ours, "cost_per_1k"), comparison.mean(name, "cost_per_1k"))
            met = percent(comparison.mean(name, "attainment"))
            sentences.append(
                f"{name}, which sees every queue as it is, kept {met} at ${comparison.mean(name, 'cost_per_1k'):.4f}:"
                f" {gap} points {way} than {ours}{cost and f', which cost{cost}'}."
            )
    if comparison.limit is not None:
        sentences.append(
            f"The fluid bound, which no policy can pass, is {percent(comparison.limit.attainment)} in deadline"
            f" at ${comparison.limit.cost_per_1k:.4f} at least ({percent(comparison.limit.steady_attainment)} at"
            f" ${comparison.limit.steady_cost_per_1k:.4f} at a steady rate)."
        )
    return sentences


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def beaten(comparison: Comparison) -> list[str]:
    """Every real policy that did better than the reference in attainment or cost, beyond doubt."""
    ours, lines = comparison.reference, []
    for name in ranked(comparison):
        if name == ours or not real(name):
            continue
        met = comparison.difference(name, "attainment")
        if certain(met) and met.mean > 0:
            lines.append(f"{name} kept {plus_minus(met, 1, 100)} points more deadlines")
        cost = comparison.difference(name, "cost_per_1k")
        if certain(cost) and cost.mean < 0:
            share = -cost.mean / comparison.mean(ours, "cost_per_1k")
            lines.append(f"{name} cost {percent(share, 0)} less per request in deadline")
    return lines


def assumptions(world: World) -> list[tuple[str, str]]:
    """The world in a table: what, and how it is there."""
    kinds: Counter[str] = Counter()
    for nodes in world.nodes:
        kinds[world.profiles[nodes.profiles[0]].accelerator] += nodes.count
    prices: dict[str, list[float]] = {}
    for nodes in world.nodes:
        prices.setdefault(world.profiles[nodes.profiles[0]].accelerator, []).append(nodes.usd_per_hour)
    fleet = ", ".join(f"{count} {kind} (${_span(prices[kind])} an hour)" for kind, count in kinds.items())
    far = max((trip.avg_ms for trip in world.round_trips), default=0.0)
    serving, control = world.serving, world.control
    low, high = serving.slow_share
    slow = f"{percent(low, 0)} to {percent(high, 0)} of the time {serving.slow_factor:g} times slower"
    return [
        ("Regions", f"{len(world.regions)}, up to {far:.0f} ms apart (mean round trip)"),
        ("Gateways", f"{len(world.gateways)}, each deciding alone"),
        ("Fleet", f"{sum(kinds.values())} workers: {fleet}"),
        ("Load", f"{world.load:g} of the highest rate at which the fluid program still serves 99 % in deadline"),
        ("Deadlines", _deadlines(world)),
        ("Sizes", world.demand.sizes if isinstance(world.demand.sizes, str) else "ranges of its own"),
        ("Workers", f"{serving.queue.value.upper()} queues; noise {serving.noise:g}; {slow}"),
        ("Control plane", f"heartbeats every {control.heartbeat_s:g} s, {control.publish_delay_s * 1e3:g} ms to"
                          f" publish, {100 * control.loss:g} % lost"),
        ("Run", f"{world.seconds:g} s, of which the first {world.warm_up:g} s are not counted"),
        ("Faults", ", ".join(f"{fault.kind.value} at {fault.at:g} s" for fault in world.faults) or "none"),
    ]  # fmt: skip


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _deadlines(world: World) -> str:
    total = sum(one.share for one in world.demand.classes)
    parts = []
    for one in world.demand.classes:
        limits = [
            f"{what} {seconds:g} s"
            for what, seconds in (
                ("first token", one.first_token_s),
                ("end", one.total_s),
                ("each token", one.token_interval_s),
            )
            if seconds is not None
        ]
        parts.append(f"{one.name} {percent(one.share / total, 0)} ({', '.join(limits) or 'none'})")
    return "; ".join(parts)
