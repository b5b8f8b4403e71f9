"""How a variant's model and functions are made: as they are, captured, compiled, or compiled and tuned on the card.

A variant is named `format-making` (`fp8-compiled`). Only one layer is compiled and reused by all (regional
compilation): compiling a whole decoder takes minutes, one layer of it seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from workers.engines.torch_precision import FORMATS, convert

MAKINGS: dict[str, dict[str, bool] | None] = {
    "eager": None,
    "graph": None,
    "compiled": {},
    "descent": {"coordinate_descent_tuning": True},
    "tuned": {"max_autotune": True, "coordinate_descent_tuning": True},
    "skinny": {},
}
"""Options of torch.compile, None without it. All but `eager` are captured in CUDA graphs. `descent` writes products
of one row as Triton reductions and tunes them on the card; `tuned` also tries Triton against the library's products;
`skinny` has our own kernel for products of few rows (workers/engines/torch_skinny.py)."""


class Variant(NamedTuple):
    """What is built."""

    form: str
    making: str

    @property
    def captured(self) -> bool:
        return self.making != "eager"


def parse(name: str) -> Variant:
    """Raises ValueError naming the choices."""
    form, _, making = name.partition("-")
    if form not in FORMATS or making not in MAKINGS:
        raise ValueError(f"no variant {name!r}: one of {', '.join(FORMATS)}, then -, then one of {', '.join(MAKINGS)}")
    return Variant(form, making)


def converted(variant: Variant, layers: nn.Module, model: nn.Module) -> None:
    """Give the layers this variant's number format; what else the model multiplies with stays bf16. Raises
    FormatError."""
    if variant.making == "skinny":
        from workers.engines import torch_skinny  # needs Triton, which is there with CUDA only

        torch_skinny.replace(layers, variant.form)
        torch_skinny.replace(model, "bf16")
    else:
        convert(layers, variant.form)


def made(variant: Variant, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as this variant runs it. Shapes are static: each new one is compiled anew."""
    options = MAKINGS[variant.making]
    if options is None:
        return function
    return torch.compile(function, dynamic=False, fullgraph=True, options=dict(options))


def random_model(kind: Callable[[], nn.Module], device: torch.device, seed: int = 0) -> Any:
    """A bf16 model whose matrices are drawn anew, the same for the same seed."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = kind()
    finally:
        torch.set_default_dtype(before)
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)
    return model.eval()
