"""Products of a few rows with a large matrix, as decoding makes them: a Triton kernel that is bound by memory alone.

Each program reads its rows of the weights once, in whole lines, several blocks ahead, and widens int8 or fp8 to 16 bits
in registers; up to 16 rows of activations ride along for free. Libraries' products leave a part of the bandwidth at so
few rows. Norm, gate and residual inside the same pass were tried on an H100: a step of 8 billion parameters then took
6.97 ms, not 6.09.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import nn
from torch.nn import functional

from workers.engines.torch_precision import FormatError, linears

ROWS = 16
"""The smallest tile of the matrix units: fewer rows cost the same."""
STORED = {"bf16": torch.bfloat16, "fp8_weights": torch.float8_e4m3fn, "int8_weights": torch.int8}
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
CONFIGS = [
    triton.Config({"COLUMNS": columns, "DEPTH": depth}, num_warps=4, num_stages=stages)
    for columns, depth, stages in ((16, 256, 4), (16, 512, 3), (32, 256, 4), (64, 128, 5))
]
"""Columns a program, elements it reads of each at a time: tried on the card for every size of matrix. Of eight, an H100
chose these."""


@triton.autotune(configs=CONFIGS, key=["width", "inner"])
@triton.jit
def _multiply(
    x,
    weight,
    scale,
    out,
    rows,
    width,
    inner: tl.constexpr,
    SCALED: tl.constexpr,  # noqa: N803 - Triton's way to write constants
    HALF: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
):
    """out[rows, width] = x[rows, inner] @ weight[width, inner].T * scale; `inner` is a multiple of DEPTH.

    HALF multiplies in float16: fp8 widens to it in one instruction, to bfloat16 in several. Activations must stay
    below 65504 then.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    depth = tl.arange(0, DEPTH)
    inside = column < width
    source = weight + column.to(tl.int64)[:, None] * inner + depth[None, :]
    beside = x + row[:, None] * inner + depth[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, inner, DEPTH):
        block = tl.load(source + start, mask=inside[:, None], other=0.0)
        left = tl.load(beside + start, mask=(row < rows)[:, None], other=0.0)
        if HALF:
            left = left.to(tl.float16)
        total = tl.dot(left, tl.trans(block.to(left.dtype)), total)
    if SCALED:
        total *= tl.load(scale + column, mask=inside, other=0.0)[None, :]
    place = out + row[:, None] * width + column[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & inside[None, :])


@torch.library.custom_op("isochrone::skinny", mutates_args=())
def skinny(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """x [rows <= 16, inner] times weight [width, inner], each column times its scale."""
    x = x.contiguous()
    width, inner = weight.shape
    out = x.new_empty(x.shape[0], width)
    grid = lambda chosen: (triton.cdiv(width, chosen["COLUMNS"]),)  # noqa: E731 - Triton's way to size a launch
    _multiply[grid](
        x, weight, x if scale is None else scale, out, x.shape[0], width, inner,
        SCALED=scale is not None, HALF=weight.dtype is torch.float8_e4m3fn, ROWS=ROWS,
    )  # fmt: skip
    return out


@skinny.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


class SkinnyLinear(nn.Module):
    """A linear layer without bias: few rows by our kernel, many by the library on weights widened to bf16."""

    def __init__(self, weight: torch.Tensor, form: str) -> None:
        super().__init__()
        stored = STORED[form]
        self.scale = None
        if stored is not weight.dtype:
            largest = LARGEST[stored]
            scale = (weight.float().abs().amax(1).clamp_min(1e-12) / largest).contiguous()
            weight = weight.float() / scale[:, None]
            weight = (weight.round() if stored is torch.int8 else weight).clamp(-largest, largest)
            self.scale = nn.Parameter(scale, requires_grad=False)
        self.weight = nn.Parameter(weight.to(stored).contiguous(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2 and x.shape[0] <= ROWS:
            return skinny(x, self.weight, self.scale)
        if self.scale is None:
            return functional.linear(x, self.weight)
        return functional.linear(x, self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype))


def choices() -> dict[str, str]:
    """The configuration that was fastest on this card, by sizes and types."""
    return {str(key): str(config) for key, config in _multiply.cache.items()}


def replace(module: nn.Module, form: str) -> None:
    """Put a SkinnyLinear in the place of every linear layer. Raises FormatError before anything is changed."""
    if form not in STORED:
        raise FormatError(f"{form}: the kernel for few rows stores {', '.join(STORED)}")
    deepest = max(config.kwargs["DEPTH"] for config in CONFIGS)
    found = list(linears(module))
    for name, linear in found:
        if linear.bias is not None or linear.in_features % deepest:
            raise FormatError(f"{form}: {name} has a bias, or an input that is no multiple of {deepest}")
    for name, linear in found:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, SkinnyLinear(linear.weight.detach(), form))
