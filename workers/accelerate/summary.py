"""A manifest in words and cells, for a terminal and for the report's page."""

from __future__ import annotations

from collections.abc import Sequence

from workers.manifest import Manifest, Variant

HEAD = (
    "variant", "quality", "95 %", "agreement", "MB", "memory, MB", "1 item, ms", "p99", "items/s", "at batch",
    "mJ/item", "$ per 1,000", "made in, s", "pays after", "served",
)  # fmt: skip
CLOSE = 5
"""Digits of an agreement: one item in a thousand must show."""


def text(manifest: Manifest) -> str:
    """The whole table, then why what is not served is not, and what there is not."""
    lines = [aligned(HEAD, rows(manifest))]
    lines += [f"{one.variant} is not served: {one.verdict.reason}" for one in against(manifest)]
    lines += [f"no {one.technique}: {one.reason}" for one in manifest.absent]
    lines += notes(manifest)
    return "\n".join(lines)


def rows(manifest: Manifest) -> list[tuple[str, ...]]:
    return [cells(one) for one in manifest.variants]


def cells(one: Variant) -> tuple[str, ...]:
    """In the order of HEAD; what was not measured is empty."""
    alone = one.latency_ms["1"]
    low, high = one.quality_ci95 or (None, None)
    effort = one.effort
    return (
        one.variant,
        f"{one.quality:.4f}",
        "" if low is None else f"{low:.3f} to {high:.3f}",
        f"{one.agreement:.4f}"[: CLOSE + 1],
        f"{one.bytes / 1e6:.3g}",
        "" if one.memory_bytes is None else f"{one.memory_bytes / 1e6:.0f}",
        f"{alone.p50:.3g}",
        f"{alone.p99:.3g}",
        "" if one.throughput is None else f"{one.throughput:,.0f}",
        str(best(one)),
        "" if one.energy is None else f"{'~' * (one.energy.source == 'estimated')}{one.energy.joules * 1e3:.3g}",
        "" if one.cost_per_1k is None else f"{one.cost_per_1k:.3g}",
        "" if effort is None else f"{effort.seconds:.1f}",
        "" if effort is None else "never" if effort.pays_after is None else f"{effort.pays_after:,}",
        "yes" if one.verdict.served else "no",
    )


def best(one: Variant) -> int:
    """The batch size of the highest throughput."""
    return max(map(int, one.latency_ms), key=lambda size: size / one.latency_ms[str(size)].p50)


def against(manifest: Manifest) -> list[Variant]:
    return [one for one in manifest.variants if not one.verdict.served]


def notes(manifest: Manifest) -> list[str]:
    """Under what the figures were measured."""
    host = manifest.host
    where = host.accelerator or f"one core of {host.cores or '?'} of {host.cpu}"
    loads = [one.load for one in manifest.variants if one.load is not None]
    span = f"{min(loads):g} to {max(loads):g}" if loads else f"{host.load:g}"
    found = [
        f"{manifest.eval.metric} on {manifest.eval.n} items of {manifest.eval.dataset}; {where}, {host.clock} time, "
        f"load {span}, ONNX Runtime {host.onnxruntime}, {host.measured}"
    ]
    assumed = {one.energy.watts for one in manifest.variants if one.energy and one.energy.source == "estimated"}
    if assumed:
        watts = ", ".join(f"{each:g}" for each in sorted(assumed))
        found.append(f"~ energy is estimated: CPU seconds times {watts} W a core; no counter was read")
    if host.cores and loads and max(loads) > host.cores:
        found.append(f"the machine was busy (load above its {host.cores} cores): measure again to trust the times")
    return found


def aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells, the first to the left."""
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *body)
    )
