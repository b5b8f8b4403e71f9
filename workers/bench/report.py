"""What a benchmark run found, as the table printed at its end and as docs/gpu.md. Fractions are of measured limits.

Pure: `gpu.json` in, text out; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Data = dict[str, Any]


def ceiling(data: Data, variant: str) -> float | None:
    """Operations per second of the matrix units a variant runs on: formats of weights alone multiply in bf16."""
    form = variant.partition("-")[0]
    rate = matrix_rates(data).get(form if form in ("fp8", "int8") else "bf16")
    return rate if isinstance(rate, float) else None


def matrix_rates(data: Data) -> Data:
    return data["parts"].get("ceilings", {}).get("operations_per_s", {})


def copy_rate(data: Data) -> float | None:
    return data["parts"].get("ceilings", {}).get("copy_bytes_per_s")


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
        percent(share(best["flops"], best["seconds"], ceiling(data, name))),
        number(best["joules"] and best["batch"] / best["joules"], "{:.2f}"),
        number(found.get("cosine"), "{:.4f}"),
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
        percent(share(row["bytes"], row["seconds"], copy_rate(data))),
        number(row["joules"] and row["batch"] / row["joules"], "{:.2f}"),
        number(found.get("agreement"), "{:.3f}"),
        number(found.get("cosine"), "{:.4f}"),
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
            percent(share(row["flops"], row["seconds"], ceiling(data, name))),
            number(found.get("peak_bytes", 0) / 1e9, "{:.1f}"),
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
    return form.format(value) if value else ""


def table(data: Data) -> str:
    """Everything, for a terminal."""
    blocks = [f"copy {(copy_rate(data) or 0) / 1e12:.2f} TB/s; matrix products: {rates(data)}"]
    for part in data["parts"]:
        if part.startswith("encoder"):
            blocks.append(f"{part}\n{aligned(ENCODER_HEAD, encoder_rows(data, part))}")
        elif part.startswith("decoder"):
            blocks.append(f"{part}: decoding\n{aligned(DECODE_HEAD, decode_rows(data, part))}")
            blocks.append(f"{part}: prompts\n{aligned(PROMPT_HEAD, prompt_rows(data, part))}")
    return "\n\n".join(blocks)


def rates(data: Data) -> str:
    return ", ".join(
        f"{form} {rate / 1e12:,.0f} T/s" if isinstance(rate, float) else f"{form}: {rate}"
        for form, rate in matrix_rates(data).items()
    )


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells; a row shorter than the head ends in a sentence, which runs on."""
    whole = [row for row in (head, *rows) if len(row) == len(head)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(head))]
    widths[0] = max(len(row[0]) for row in (head, *rows))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in (head, *rows)
    )
