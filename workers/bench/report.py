"""What a benchmark run found, as the table printed at its end and as docs/gpu.md. Fractions are of measured limits.

Pure: `gpu.json` in, text out; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Data = dict[str, Any]


def merged(runs: Sequence[Data]) -> Data:
    """Several runs as one: of a variant the last that has figures for it, beside the limits of its own run. What no run
    began and the last does not name was given up meanwhile, and is left out."""
    whole: Data = dict(runs[-1], parts={})
    for data in runs:
        for part, found in data["parts"].items():
            into = whole["parts"].setdefault(part, {})
            into.update({key: value for key, value in found.items() if key != "variants"})
            for name, variant in found.get("variants", {}).items():
                if "skipped" in variant and data is not runs[-1]:
                    continue
                if name not in into.get("variants", {}) or measured(variant):
                    limits = data["parts"].get("ceilings", {})
                    into.setdefault("variants", {})[name] = variant | {"limits": limits, "run": data["measured"]}
    return whole


def measured(found: Data) -> bool:
    return any(found.get(key) for key in ("rows", "decode", "turns"))


def limits(data: Data, found: Data) -> Data:
    return found.get("limits") or data["parts"].get("ceilings", {})


def ceiling(limits: Data, variant: str) -> float | None:
    """Operations per second of the matrix units a variant runs on: formats of weights alone multiply in bf16."""
    form = variant.partition("-")[0]
    rate = limits.get("operations_per_s", {}).get(form if form in ("fp8", "int8") else "bf16")
    return rate if isinstance(rate, float) else None


def copy_rate(limits: Data) -> float | None:
    return limits.get("copy_bytes_per_s")


def share(work: float, seconds: float, limit: float | None) -> float | None:
    """Of the physical limit: work done per second over what the card was measured to do."""
    return None if not limit else work / seconds / limit


ENCODER_HEAD = (
    "variant",
    "sequences/s",
    "at batch",
    "batch 1, ms",
    "TFLOP/s",
    "of matrix limit",
    "sequences/J",
    "cosine",
    "product error",
    "weights, GB",
)
DECODE_HEAD = (
    "variant",
    "batch",
    "tokens/s",
    "step, ms",
    "GB a step",
    "of bandwidth limit",
    "tokens/J",
    "greedy agreement",
    "cosine",
    "product error",
)
PROMPT_HEAD = (
    "variant",
    "prompt tokens",
    "first token, ms",
    "tokens/s",
    "TFLOP/s",
    "of matrix limit",
    "peak memory, GB",
)


def encoder_rows(data: Data, part: str) -> list[list[str]]:
    """Per variant its row of highest throughput."""
    return [
        [name, *_encoder_cells(data, name, found)] if found.get("rows") else [name, why(found)]
        for name, found in variants(data, part)
    ]


def _encoder_cells(data: Data, name: str, found: Data) -> list[str]:
    best = max(found["rows"], key=lambda row: row["batch"] / row["seconds"])
    return [
        f"{best['batch'] / best['seconds']:,.0f}",
        str(best["batch"]),
        f"{found['rows'][0]['median_s'] * 1e3:.2f}",
        f"{best['flops'] / best['seconds'] / 1e12:,.0f}",
        percent(share(best["flops"], best["seconds"], ceiling(limits(data, found), name))),
        number(best["joules"] and best["batch"] / best["joules"], "{:.2f}"),
        number(found.get("cosine"), "{:.4f}"),
        number(found.get("product_error"), "{:.4f}"),
        f"{found['weights_bytes'] / 1e9:.2f}",
    ]


def decode_rows(data: Data, part: str) -> list[list[str]]:
    """Per variant and batch."""
    rows = []
    for name, found in variants(data, part):
        rows += [[name, *_decode_cells(data, found, row)] for row in found.get("decode", [])] or [[name, why(found)]]
    return rows


def _decode_cells(data: Data, found: Data, row: Data) -> list[str]:
    return [
        str(row["batch"]),
        f"{row['batch'] / row['seconds']:,.0f}",
        f"{row['seconds'] * 1e3:.2f}",
        f"{row['bytes'] / 1e9:.2f}",
        percent(share(row["bytes"], row["seconds"], copy_rate(limits(data, found)))),
        number(row["joules"] and row["batch"] / row["joules"], "{:.2f}"),
        number(found.get("agreement"), "{:.3f}"),
        number(found.get("cosine"), "{:.4f}"),
        number(found.get("product_error"), "{:.4f}"),
    ]


def prompt_rows(data: Data, part: str) -> list[list[str]]:
    """Per variant and length."""
    return [
        [
            name,
            str(row["length"]),
            f"{row['seconds'] * 1e3:.2f}",
            f"{row['length'] / row['seconds']:,.0f}",
            f"{row['flops'] / row['seconds'] / 1e12:,.0f}",
            percent(share(row["flops"], row["seconds"], ceiling(limits(data, found), name))),
            number(found.get("peak_bytes") and found["peak_bytes"] / 1e9, "{:.1f}"),
        ]
        for name, found in variants(data, part)
        for row in found.get("prompts", [])
    ]


def variants(data: Data, part: str) -> list[tuple[str, Data]]:
    return list(data["parts"].get(part, {}).get("variants", {}).items())


def why(found: Data) -> str:
    return str(found.get("failed") or found.get("skipped") or "not measured")


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def batching_rows(data: Data) -> list[list[str]]:
    return [
        [name, str(row["sequences"]), f"{row['tokens_per_s']:,.0f}", f"{row['first_token_s'] * 1e3:,.0f}"]
        for name, found in variants(data, "batching")
        for row in found.get("rows", [])
    ]


BATCHING_HEAD = ("variant", "sequences at once", "tokens/s", "last first token, ms")


def front_rows(data: Data) -> list[list[str]]:
    """Both ways, and what the gateway costs."""
    return [
        [way, f"{rate:,.1f}", f"{found['p50_s'][way] * 1e3:,.1f}"]
        for _, found in variants(data, "front")
        for way, rate in found.get("requests_per_s", {}).items()
    ]


FRONT_HEAD = ("way", "requests/s", "median, ms")


def tables(data: Data) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and rows of everything that was measured."""
    for part in data["parts"]:
        if part.startswith("encoder"):
            yield part, ENCODER_HEAD, encoder_rows(data, part)
        elif part.startswith("decoder"):
            yield f"{part}: decoding", DECODE_HEAD, decode_rows(data, part)
            yield f"{part}: prompts", PROMPT_HEAD, prompt_rows(data, part)
        elif part == "batching":
            yield part, BATCHING_HEAD, batching_rows(data)
        elif part == "front":
            yield part, FRONT_HEAD, front_rows(data)


def table(data: Data) -> str:
    """Everything, for a terminal."""
    own = data["parts"].get("ceilings", {})
    first = f"copy {(copy_rate(own) or 0) / 1e12:.2f} TB/s; matrix products: {rates(own)}"
    return "\n\n".join([first, *(f"{title}\n{aligned(head, rows)}" for title, head, rows in tables(data))])


def rates(limits: Data) -> str:
    return ", ".join(
        f"{form} {rate / 1e12:,.0f} T/s" if isinstance(rate, float) else f"{form}: {rate}"
        for form, rate in limits.get("operations_per_s", {}).items()
    )


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells; a row shorter than the head ends in a sentence, which runs on."""
    whole = [row for row in (head, *rows) if len(row) == len(head)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(head))]
    widths[0] = max(len(row[0]) for row in (head, *rows))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in (head, *rows)
    )
