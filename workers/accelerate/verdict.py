"""Which variants are worth serving: those that pass their evaluation and that no other one makes pointless. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from workers.manifest import Variant, Verdict

MARGIN = 0.03
"""Share below which two figures count as the same: medians of one graph on one machine move by that much."""


def judged(variants: Sequence[Variant], floor: float) -> tuple[Variant, ...]:
    """The variants, each with its verdict. The first is the reference, which is always served."""
    reference, *others = variants
    passed = [reference]
    found: dict[str, Verdict] = {reference.variant: Verdict()}
    for one in others:
        if one.quality < floor:
            reason = f"quality {one.quality:.4g} is below the floor of {floor:g}"
            found[one.variant] = Verdict(served=False, reason=reason)
        else:
            passed.append(one)
    beaten = {one.variant: [other for other in passed if beats(other, one, passed)] for one in passed[1:]}
    for one in passed[1:]:
        rivals = beaten[one.variant]
        if rivals:
            better = next((other for other in rivals if not beaten.get(other.variant)), rivals[0])
            reason = (
                f"no faster, smaller or cheaper than {better.variant}, of no worse quality "
                f"({_figures(one)}; {better.variant}: {_figures(better)})"
            )
            found[one.variant] = Verdict(served=False, reason=reason, by=better.variant)
    return tuple(msgspec.structs.replace(one, verdict=found.get(one.variant, Verdict())) for one in variants)


def beats(other: Variant, one: Variant, order: Sequence[Variant]) -> bool:
    """Whether `one` is no faster, smaller or cheaper than `other`, whose quality is no worse. Of two alike, the
    earlier in `order` beats the later."""
    if other is one or worth(other) < worth(one):
        return False
    pairs = list(zip(figures(one), figures(other), strict=True))
    if any(own < his * (1 - MARGIN) for own, his in pairs):
        return False
    alike = worth(other) == worth(one) and not any(his < own * (1 - MARGIN) for own, his in pairs)
    return not alike or order.index(other) < order.index(one)


def worth(variant: Variant) -> tuple[float, float]:
    """Its quality, of which more than the reference's is luck with the held-out items; of equal ones, the agreement."""
    return min(variant.quality, 1.0), variant.agreement


def figures(variant: Variant) -> tuple[float, float, float]:
    """Milliseconds of one item, bytes, seconds of an item at the best batch: less is better."""
    per_item = 1 / variant.throughput if variant.throughput else variant.latency_ms["1"].p50 / 1e3
    return variant.latency_ms["1"].p50, float(variant.bytes), per_item


def front(variants: Sequence[Variant], cost: Sequence[float]) -> list[int]:
    """Places of those that none beats in both quality and cost, cheapest first."""
    worths = [worth(variant)[0] for variant in variants]
    kept: list[int] = []
    for index in sorted(range(len(variants)), key=lambda i: (cost[i], -worths[i])):
        if not kept or worths[index] > worths[kept[-1]]:
            kept.append(index)
    return kept


def _figures(variant: Variant) -> str:
    alone, size, per_item = figures(variant)
    return f"{alone:.3g} ms, {size / 1e6:.3g} MB, {per_item * 1e3:.3g} ms an item in company"
