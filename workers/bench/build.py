"""How a variant's model and functions are made: as they are, captured, compiled, or with our own kernels.

A variant is named `format-making` (`fp8-compiled`). Only one layer is compiled and reused by all (regional
compilation): compiling a whole decoder takes minutes, one layer of it seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from workers.engines.torch_precision import FORMATS, convert

MAKINGS = {"eager": False, "graph": False, "compiled": True, "skinny": True}
"""Whether torch.compile is used. All but `eager` are captured in CUDA graphs; `skinny` has our own kernels for decoding
(workers/engines/torch_skinny.py and torch_attend.py)."""

ERROR_ROWS = 16
"""Of activations in the one product that is checked: what every kernel takes."""


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
        from workers.engines import torch_attend, torch_skinny  # need Triton, which is there with CUDA only

        for layer in layers.children():
            layer.attend = torch_attend.attend
        torch_skinny.replace(layers, variant.form)
        torch_skinny.replace(model, "bf16")
    else:
        convert(layers, variant.form)


def product_error(layers: nn.Module, reference: nn.Linear) -> float:
    """How far the first converted product is from the same one in float32, relative: a wrong scale would be seen here,
    where no layers amplify what is lost."""
    linear = next(part for part in layers.modules() if isinstance(part, nn.Linear) or hasattr(part, "scale"))
    generator = torch.Generator(reference.weight.device).manual_seed(2)
    x = torch.randn(
        ERROR_ROWS, reference.in_features, dtype=torch.bfloat16, device=reference.weight.device, generator=generator
    )
    exact = functional.linear(x.float(), reference.weight.float(), *_bias(reference))
    return ((linear(x).float() - exact).norm() / exact.norm()).item()


def _bias(linear: nn.Linear) -> tuple[torch.Tensor, ...]:
    return () if linear.bias is None else (linear.bias.float(),)


def kernels(variant: Variant) -> dict[str, str]:
    """What was tuned on this card, and how."""
    if variant.making != "skinny":
        return {}
    from workers.engines import torch_skinny

    return torch_skinny.choices()


def made(variant: Variant, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as this variant runs it. Shapes are static: each new one is compiled anew."""
    if not MAKINGS[variant.making]:
        return function
    return torch.compile(function, dynamic=False, fullgraph=True)


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
