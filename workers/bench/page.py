"""docs/gpu.md from what `make bench-gpu` measured: `python -m workers.bench.page build/bench/gpu.json > docs/gpu.md`.

Nothing is written that was not measured: sentences and tables alike come from the files, of several the later one wins
variant by variant. report.py knows the rows; here are the words.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.bench import report
from workers.bench.report import Data

DECODE_TARGET, ENCODER_TARGET, FRONT_TARGET = 0.60, 0.50, 0.01
"""Shares of the physical limits that are wanted, and the most a gateway may cost."""

READING = """\
- **Limits** are measured on the card in the same run: copying 4 GiB from memory to memory, bytes read and written
  counted, and square matrix products of 8,192 and 16,384 on random data, whichever is faster. No figure is held against
  a data sheet's.
- **Of bandwidth limit**: the bytes that a decoding step must read (every weight but the embedding table once, and the
  live positions of the key/value cache) over the time it took, over the copying rate.
- **Of matrix limit**: the multiplications and additions of the products and of attention over the time they took, over
  the rate of the same number format; formats that only store weights in fewer bits multiply in bf16.
- **Variants** are a number format and a making. Formats: `fp8` and `int8` quantize activations too, per row while they
  run; `*_weights` only store less; `sparse24` drops the smaller two of every four weights. Makings: `eager` launches
  every kernel; `graph` replays them as one captured CUDA graph; `compiled` also has torch.compile fuse what stands
  between the products; `skinny` also uses this project's Triton kernels for products of few rows and for attention
  over the cache (`workers/engines/torch_skinny.py`, `torch_attend.py`). Prompts are read by the libraries' products.
- **Tokens and sequences per joule**: by NVML's energy counter of the whole card over at least two seconds.
- **Likeness**: cosine to the outputs of the bf16 model with the same weights, and how often the likeliest next token
  is the same. The weights are random, and random layers amplify every rounding: bf16 kernels that only sum in another
  order agree no better than the rows of `bf16-skinny` say. What a format does to one product is
  **product error**, relative to float32; a trained model is judged by its task (`isochrone accelerate`).
"""


def page(runs: Sequence[Data]) -> str:
    """The whole document. Raises ValueError when there is nothing to report."""
    data = report.merged(runs)
    if "ceilings" not in data["parts"]:
        raise ValueError("no run has measured the card's limits: there is nothing to compare with")
    device = data["parts"]["ceilings"]["device"]
    days = sorted({run["measured"][:10] for run in runs})
    software = ", ".join(f"{name} {version}" for name, version in data["software"].items())
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs, of a variant the last that has it"
    made = f"Made by `make bench-gpu` on {' and '.join(days)} on one {device['name']} in {count} ({software})."
    blocks = [
        "# On a data-centre GPU",
        f"A transformer encoder and a Llama-architecture decoder with random weights: speed does not depend on their "
        f"values. {made}",
        "## In words",
        "\n".join(f"- {line}" for line in words(data)),
        "## How to read the tables",
        READING.strip(),
        "## The card's limits",
        _limits(data),
    ]
    for title, head, rows in report.tables(data):
        blocks += [f"## {heading(title)}", subject(data, title.partition(":")[0]), markdown(head, rows)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def words(data: Data) -> Iterator[str]:
    """What the figures come to, beside what was wanted."""
    for part in ("decoder", "decoder-1b"):
        for name, found in report.variants(data, part):
            if name.startswith("bf16-") and found.get("decode") and name != "bf16-eager":
                yield _decoding(data, part, name, found)
    for part in ("encoder", "encoder-1024"):
        best = max(_encoders(data, part), default=None)
        if best is not None:
            verdict = "met" if best[0] >= ENCODER_TARGET else "missed"
            yield (
                f"{heading(part)}: {best[1]} reaches {exact(best[0])} of the matrix limit of its format "
                f"({report.percent(ENCODER_TARGET)} wanted: {verdict})."
            )
    yield from _fastest(data)
    for _, found in report.variants(data, "front"):
        if "loss" in found:
            verdict = "met" if found["loss"] < FRONT_TARGET else "missed"
            yield (
                f"A gateway in front of a saturated worker costs {100 * found['loss']:.1f} % of its throughput "
                f"(under {report.percent(FRONT_TARGET)} wanted: {verdict}); {_spread(found)}."
            )
    left = [f"{part} {name}: {report.why(found)}" for part in data["parts"] for name, found in _unmeasured(data, part)]
    if left:
        yield f"Not measured: {'; '.join(left)}."


def _decoding(data: Data, part: str, name: str, found: Data) -> str:
    limit = report.copy_rate(report.limits(data, found))
    shares = [report.share(row["bytes"], row["seconds"], limit) or 0.0 for row in found["decode"]]
    verdict = "met" if min(shares) >= DECODE_TARGET else "missed"
    batches = f"{found['decode'][0]['batch']} to {found['decode'][-1]['batch']}"
    return (
        f"{heading(part)}: {name} decodes at {exact(min(shares))} to {exact(max(shares))} of the "
        f"bandwidth limit at batch {batches} ({report.percent(DECODE_TARGET)} wanted: {verdict})."
    )


def exact(value: float) -> str:
    """Beside a verdict: so that what missed by little does not read as met."""
    return f"{100 * value:.1f} %"


def _encoders(data: Data, part: str) -> Iterator[tuple[float, str]]:
    for name, found in report.variants(data, part):
        limit = report.ceiling(report.limits(data, found), name)
        for row in found.get("rows", []):
            yield report.share(row["flops"], row["seconds"], limit) or 0.0, name


def _fastest(data: Data) -> Iterator[str]:
    """Which variants gain on bf16's best, and which lose although they compute with fewer bits."""
    for part, kind, unit in (("encoder", "rows", "sequences"), ("decoder", "decode", "tokens at batch 1")):
        rates = {}
        for name, found in report.variants(data, part):
            rows = found.get(kind, [])
            if rows:
                rates[name] = max(row["batch"] / row["seconds"] for row in (rows if kind == "rows" else rows[:1]))
        plain = max((rate for name, rate in rates.items() if name.startswith("bf16")), default=None)
        if plain is None:
            continue
        others = {name: rate / plain for name, rate in rates.items() if not name.startswith("bf16")}
        said = ", ".join(f"{name} {gain:.2f}" for name, gain in sorted(others.items(), key=lambda item: -item[1]))
        if said:
            yield f"{heading(part)}, {unit} a second beside bf16's fastest: {said} times."


def _spread(found: Data) -> str:
    """The turns themselves, so that the reader sees what noise there is."""
    ways: dict[str, list[str]] = {}
    for turn in found.get("turns", []):
        ways.setdefault(turn["way"], []).append(f"{turn['per_second']:.1f}")
    return "; ".join(f"{way} {', '.join(rates)} requests a second" for way, rates in ways.items())


def _unmeasured(data: Data, part: str) -> Iterator[tuple[str, Data]]:
    return ((name, found) for name, found in report.variants(data, part) if not report.measured(found))


def _limits(data: Data) -> str:
    found = data["parts"]["ceilings"]
    rows = [["copy", f"{(report.copy_rate(found) or 0) / 1e12:.2f} TB/s"]]
    for form, rate in found.get("operations_per_s", {}).items():
        rows.append([f"{form} products", f"{rate / 1e12:,.0f} T/s" if isinstance(rate, float) else rate])
    device = found["device"]
    if device.get("power_limit_watts"):
        rows.append(["power", f"{device['power_limit_watts']:.0f} W"])
    return markdown(("limit", "measured"), rows)


TITLES = {
    "encoder": "Encoder",
    "encoder-1024": "Encoder, hidden size 1,024",
    "decoder": "Decoder",
    "decoder-1b": "Decoder of about a billion parameters",
    "batching": "Text as a worker serves it",
    "front": "A gateway in front",
}


def heading(title: str) -> str:
    part, colon, rest = title.partition(":")
    return f"{TITLES.get(part, part)}{colon}{rest}"


def subject(data: Data, part: str) -> str:
    """What was measured, in one line."""
    found = data["parts"][part]
    shape = found.get("shape", {})
    sizes = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in shape.items() if isinstance(value, int))
    count = f"{found['parameters'] / 1e9:.2f} billion parameters: " if "parameters" in found else ""
    more = {
        "batching": f" Prompts of {found.get('prompt')} tokens, {found.get('tokens')} tokens each, greedy.",
        "front": f" {found.get('clients')} clients ask again as soon as they are answered, one sequence a request.",
    }
    context = f" {found['context']:,} positions of context when decoding begins." if "context" in found else ""
    return f"{count}{sizes}.{context}{more.get(part, '')}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a row that ends in a sentence keeps it in its second cell."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows]
    return "\n".join(lines)


def main(paths: Sequence[str]) -> int:
    if not paths:
        sys.stderr.write("give the gpu.json of one run or of several, the latest last\n")
        return 2
    sys.stdout.write(page([json.loads(Path(path).read_text()) for path in paths]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
