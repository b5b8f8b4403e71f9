"""The two physical limits, measured on the card itself: how fast memory is copied and matrices are multiplied.

Every other figure is given as a fraction of these, never of a data sheet's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from workers.bench.meter import Meter

COPY_BYTES = 4 << 30
"""Far beyond any cache."""
SIDES = (8192, 16384)
"""Sides of the square matrices; the faster one counts."""


def copy_rate(meter: Meter, size: int = COPY_BYTES) -> float:
    """Bytes per second of a device-to-device copy, those read and those written counted."""
    source = torch.empty(size, dtype=torch.uint8, device=meter.device)
    source.random_()
    target = torch.empty_like(source)
    return 2 * size / meter.median(lambda: target.copy_(source))


def matrix_rates(meter: Meter, sides: tuple[int, ...] = SIDES) -> Iterator[tuple[str, float | str]]:
    """By number format, operations per second of a square product on random data, or why there is none."""
    for form, product in PRODUCTS.items():
        try:
            yield form, max(2 * side**3 / meter.median(product(side, meter.device)) for side in sides)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            yield form, str(error).partition("\n")[0]


def _bf16(side: int, device: torch.device) -> Callable[[], object]:
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right.t(), out=out)


def _fp8(side: int, device: torch.device) -> Callable[[], object]:
    left, right = (torch.randn(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    rows, columns = torch.ones(side, 1, device=device), torch.ones(1, side, device=device)
    return lambda: torch._scaled_mm(
        left, right.t(), scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _int8(side: int, device: torch.device) -> Callable[[], object]:
    left, right = (torch.randint(-127, 127, (side, side), device=device, dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(left, right.t())


PRODUCTS = {"bf16": _bf16, "fp8": _fp8, "int8": _int8}
