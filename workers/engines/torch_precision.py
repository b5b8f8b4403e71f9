"""Number formats for the linear layers of a torch module, changed in place: torchao's, and torch's own 2:4 sparsity.

What a machine cannot do is a `FormatError` that says why. Nothing here says that a format is faster: int8 weights are
slower than bf16 on an H100 for large batches. Activations stay bf16 between the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

FORMATS = ("bf16", "fp8", "fp8_weights", "int8", "int8_weights", "int4_weights", "sparse24")
"""`fp8` and `int8` quantize activations too, per row at run time, so that the products run on that format's units;
`*_weights` only store less. `sparse24` zeroes the smaller two of every four weights."""
FP8_CAPABILITY = (8, 9)
"""Ada and later have fp8 matrix units."""
INT4_GROUP = 128
"""Weights per scale: torchao's default, the largest its tiled layout takes without losing much."""
SPARSE_MULTIPLE = 64
"""Both sides of a matrix must be multiples of it, or the sparse kernels refuse the matrix."""


class FormatError(ValueError):
    """A number format that this machine or module cannot have; the text says why."""


def convert(module: nn.Module, form: str) -> None:
    """Give every linear layer of a bf16 module this format. Raises FormatError before anything is changed."""
    if form not in FORMATS:
        raise FormatError(f"no number format {form!r}: choose among {', '.join(FORMATS)}")
    if form == "bf16":
        return
    device = next(module.parameters()).device
    _check(form, device, module)
    if form == "sparse24":
        _sparsify(module)
    else:
        _quantize(module, form)


def _check(form: str, device: torch.device, module: nn.Module) -> None:
    if form in ("sparse24", "int4_weights") and device.type != "cuda":
        raise FormatError(f"{form}: its kernels exist for CUDA devices only, this is {device.type}")
    if form.startswith("fp8") and (device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY):
        raise FormatError(f"{form}: needs a CUDA device of capability 8.9 or more (Ada, Hopper and later)")
    if form == "sparse24":
        for name, linear in linears(module):
            if linear.in_features % SPARSE_MULTIPLE or linear.out_features % SPARSE_MULTIPLE:
                raise FormatError(
                    f"sparse24: {name} is {linear.out_features} x {linear.in_features}, "
                    f"both must be multiples of {SPARSE_MULTIPLE}"
                )


def _quantize(module: nn.Module, form: str) -> None:
    # torchao, from here on because importing it takes seconds and CPU workers without it still have bf16.
    from torchao import quantization

    configs: dict[str, Callable[[], object]] = {
        "fp8": lambda: quantization.Float8DynamicActivationFloat8WeightConfig(
            granularity=quantization.PerRow(), set_inductor_config=False
        ),
        "fp8_weights": lambda: quantization.Float8WeightOnlyConfig(set_inductor_config=False),
        "int8": lambda: quantization.Int8DynamicActivationInt8WeightConfig(version=2, set_inductor_config=False),
        "int8_weights": lambda: quantization.Int8WeightOnlyConfig(version=2, set_inductor_config=False),
        "int4_weights": lambda: quantization.Int4WeightOnlyConfig(
            group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        ),
    }
    quantization.quantize_(module, configs[form]())


def _sparsify(module: nn.Module) -> None:
    for _, linear in linears(module):
        pruned = linear.weight.detach() * keep_two_of_four(linear.weight.detach())
        linear.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(pruned), requires_grad=False)


def keep_two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The 2:4 mask by magnitude: of every four neighbours in a row the larger two."""
    groups = weight.abs().reshape(-1, 4)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(1, groups.topk(2, dim=1).indices, True)
    return mask.reshape(weight.shape)


def linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            yield name, part


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters as they lie in memory, quantized ones with their scales."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def _bytes(tensor: torch.Tensor) -> int:
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.numel() * tensor.element_size()
    names, _ = flatten()
    return sum(_bytes(part) for name in names if (part := getattr(tensor, name)) is not None)
