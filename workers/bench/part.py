"""One part of the benchmark in a process of its own, so that a variant that wedges the card costs only itself.

`python -m workers.bench.part PART --scale SCALE --until T VARIANT...` writes one JSON line per thing known:
{"variant": name or "", "found": {...}}. Python's faults are written down and the next variant is tried; one that
leaves the device unusable ends the process, and the parent starts another for the rest.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers import devices
from workers.bench import ceilings, decoder, encoder, llama
from workers.bench.meter import Meter

log = logging.getLogger(__name__)

BROKEN_DEVICE = 3
"""Exit status: the device refuses further work."""
NO_DEVICE = 4
"""Exit status: there is none."""
VARIANT_SECONDS = 45.0
"""After so long a variant begins no further row: a slow one must not cost the others."""
WHOLE = {"front": math.inf, "batching": math.inf}
"""These starts are most of what they take, and a part of their rows says nothing."""
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In this order: cuDNN's kernels are the ones written for Hopper."""
SHAPES_SEEN = 256
"""Compilations of one function before dynamo gives up on it; its default of 8 is fewer than our shapes."""

Write = Callable[[str, dict[str, Any]], None]


class Scale(NamedTuple):
    """How large everything is."""

    copied: int
    sides: tuple[int, ...]
    encoders: dict[str, encoder.Shape]
    batches: tuple[int, ...]
    decoders: dict[str, decoder.Plan]
    batching: decoder.Texts
    turn_seconds: float
    """Of the gateway's comparison."""


FULL = Scale(
    copied=ceilings.COPY_BYTES,
    sides=ceilings.SIDES,
    encoders={"encoder": encoder.LARGE, "encoder-1024": encoder.BERT_LARGE},
    batches=(1, 8, 32, 64, 128, 256),
    decoders={
        "decoder": decoder.Plan(llama.LLAMA_8B, prompts=(512, 2048), batches=(1, 2, 4, 8), context=1024, span=256),
        "decoder-1b": decoder.Plan(llama.LLAMA_1B, prompts=(512, 2048), batches=(1, 2, 4, 8), context=1024, span=256),
    },
    batching=decoder.Texts(llama.LLAMA_1B, sequences=(1, 8, 32), prompt=128, tokens=64),
    turn_seconds=4.0,
)
TINY = Scale(
    copied=1 << 20,
    sides=(64,),
    encoders={"encoder": encoder.TINY, "encoder-1024": encoder.TINY},
    batches=(1, 2),
    decoders={
        "decoder": decoder.Plan(llama.TINY, prompts=(8, 16), batches=(1, 2), context=8, span=4),
        "decoder-1b": decoder.Plan(llama.TINY, prompts=(8, 16), batches=(1, 2), context=8, span=4),
    },
    batching=decoder.Texts(llama.TINY, sequences=(1, 2), prompt=4, tokens=4),
    turn_seconds=0.5,
)
SCALES = {"full": FULL, "tiny": TINY}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--until", type=float, required=True, help="monotonic seconds after which nothing is begun")
    options = parser.parse_args(arguments)
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print; only our lines go where the parent reads

    def write(variant: str, found: dict[str, Any]) -> None:
        lines.write(json.dumps({"variant": variant, "found": found}) + "\n")

    with torch.no_grad(), sdpa_kernel(ATTENTION, set_priority=True):
        return measure(options.part, options.variants, SCALES[options.scale], options.until, write)


def measure(part: str, variants: list[str], scale: Scale, until: float, write: Write) -> int:
    """Everything this process was asked for; the exit status."""
    device, card = place()
    if device.type == "cpu" and scale is FULL:
        write("", {"failed": "torch sees no CUDA device; --scale tiny tries the benchmark itself on a CPU"})
        return NO_DEVICE
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = SHAPES_SEEN
    meter = Meter(device, card)
    if part == "ceilings":
        write("", {"device": describe(device, card), "copy_bytes_per_s": ceilings.copy_rate(meter, scale.copied)})
        for form, rate in ceilings.matrix_rates(meter, scale.sides):
            write("", {"operations_per_s": {form: rate}})
        return 0
    try:
        bench = benches(part, meter, scale)
    except ImportError as error:
        for variant in variants:
            write(variant, {"skipped": f"needs {error.name}, which is not installed here"})
        return 0
    write("", bench.describe())
    for variant in variants:
        if time.monotonic() > until:
            write(variant, {"skipped": "out of time"})
        elif not _tried(variant, bench.measure(variant), until, write, WHOLE.get(part, VARIANT_SECONDS)):
            return BROKEN_DEVICE
        _forget(device)
    return 0


class Bench(Protocol):
    """One part's subject, and what it finds about a variant of it."""

    def describe(self) -> dict[str, Any]: ...
    def measure(self, name: str) -> Iterator[dict[str, Any]]: ...


def benches(part: str, meter: Meter, scale: Scale) -> Bench:
    if part in scale.encoders:
        return encoder.Bench(meter, scale.encoders[part], scale.batches)
    if part in scale.decoders:
        return decoder.Bench(meter, scale.decoders[part])
    if part == "front":
        from workers.bench.front import Front  # needs what a gateway needs, which a machine for measuring may lack

        return Front(meter.device, scale.encoders["encoder"], scale.turn_seconds)
    if part == "batching":
        from workers.bench.batching import Batches  # likewise, of a worker for text

        return Batches(meter, scale.batching)
    raise ValueError(f"no part {part!r}")


def _tried(
    variant: str, findings: Iterator[dict[str, Any]], until: float, write: Write, seconds: float = VARIANT_SECONDS
) -> bool:
    """Write what a variant finds, or how it failed; whether the device can still be used."""
    begun = time.monotonic()
    write(variant, {"begun": True})
    try:
        for found in findings:
            write(variant, found)
            took = time.monotonic() - begun
            if time.monotonic() > until or took > seconds:
                write(variant, {"cut": f"after {took:.0f} s: out of time"})
                break
        write(variant, {"took_s": time.monotonic() - begun})
    except Exception as error:  # whatever a library throws at one variant must not cost the others
        log.exception("%s", variant)
        write(variant, {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]})
        return _usable()
    return True


def _usable() -> bool:
    """After a CUDA fault every further call of this process fails."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except RuntimeError:
        return False
    return True


def _forget(device: torch.device) -> None:
    """Free what the last variant held, compiled code included."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def place() -> tuple[torch.device, devices.Device | None]:
    """The device to measure on, and NVML's view of the same card."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), None
    return torch.device("cuda", 0), devices.of_torch(str(torch.cuda.get_device_properties(0).uuid))


def describe(device: torch.device, card: devices.Device | None) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "power_limit_watts": card.power_limit if card else None,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main(sys.argv[1:]))
