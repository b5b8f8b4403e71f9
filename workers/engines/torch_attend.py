"""Attention of one new token per row over its cached positions: a Triton kernel that splits the cache over the device.

Each program reads a piece of one group's keys and values once, for all heads that share them; a second kernel joins the
pieces (Dao et al., Flash-Decoding, 2023). Only live positions are read, wherever each row is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 16
"""The smallest tile of the matrix units: up to so many heads share keys at no extra cost."""
BLOCK = 64
"""Positions a program reads at a time: 16 KB each of keys and values at a width of 128."""
PROGRAMS = 264
"""Wanted at least: two for each of an H100's 132 multiprocessors keep enough reads under way."""


@triton.jit
def _pieces(
    q,
    keys,
    values,
    positions,
    mixed,
    highest,
    total,
    scale,
    groups,
    length,
    HEADS: tl.constexpr,  # noqa: N803 - Triton's way to write constants
    WIDTH: tl.constexpr,  # noqa: N803
    SPLITS: tl.constexpr,  # noqa: N803
    BLOCKS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One piece of one group: what its positions mix to, its highest score, and the sum of its weights under that."""
    group = tl.program_id(0)
    split = tl.program_id(1)
    live = tl.load(positions + group // groups) + 1
    head = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    mine = tl.load(
        q + (group * HEADS + head)[:, None] * WIDTH + column[None, :], mask=(head < HEADS)[:, None], other=0.0
    )
    start = group.to(tl.int64) * length * WIDTH
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for i in range(BLOCKS):
        place = (split * BLOCKS + i) * BLOCK + tl.arange(0, BLOCK)
        seen = place < live
        cell = start + place[:, None] * WIDTH + column[None, :]
        key = tl.load(keys + cell, mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(mine, tl.trans(key)) * scale, float("-inf"))
        above = tl.maximum(best, tl.max(scores, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # a piece beyond all live positions weighs nothing
        share = tl.exp(scores - base[:, None])
        fade = tl.exp(best - base)
        value = tl.load(values + cell, mask=seen[:, None], other=0.0)
        sums = sums * fade[:, None] + tl.dot(share.to(value.dtype), value)
        weight = weight * fade + tl.sum(share, 1)
        best = above
    row = (group * SPLITS + split) * ROWS + head
    tl.store(mixed + row[:, None] * WIDTH + column[None, :], sums)
    tl.store(highest + row, best)
    tl.store(total + row, weight)


@triton.jit
def _joined(
    mixed,
    highest,
    total,
    out,
    HEADS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    SPLITS: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
):
    """One head: its pieces, each weighed by how its highest score compares."""
    group, head = tl.program_id(0), tl.program_id(1)
    split = tl.arange(0, PADDED)
    column = tl.arange(0, WIDTH)
    there = split < SPLITS
    row = (group * SPLITS + split) * ROWS + head
    best = tl.load(highest + row, mask=there, other=float("-inf"))
    fade = tl.exp(best - tl.max(best, 0))
    weight = tl.sum(tl.load(total + row, mask=there, other=0.0) * fade, 0)
    pieces = tl.load(mixed + row[:, None] * WIDTH + column[None, :], mask=there[:, None], other=0.0)
    answer = tl.sum(pieces * fade[:, None], 0) / weight
    tl.store(out + (group * HEADS + head) * WIDTH + column, answer.to(out.dtype.element_ty))


@torch.library.custom_op("isochrone::attend", mutates_args=())
def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`q` [batch, groups, heads, width], keys and values [batch, groups, length, width], `positions` [batch]: the last
    live position of each row. At most 16 heads share keys."""
    q = q.contiguous()
    batch, groups, heads, width = q.shape
    length = keys.shape[2]
    blocks = triton.cdiv(length, BLOCK)
    splits = min(triton.cdiv(PROGRAMS, batch * groups), blocks)
    each = triton.cdiv(blocks, splits)
    splits = triton.cdiv(blocks, each)
    mixed = torch.empty((batch * groups, splits, ROWS, width), dtype=torch.float32, device=q.device)
    highest, total = (torch.empty((batch * groups, splits, ROWS), dtype=torch.float32, device=q.device) for _ in "ht")
    out = torch.empty_like(q)
    _pieces[batch * groups, splits](
        q, keys, values, positions, mixed, highest, total, width**-0.5, groups, length,
        HEADS=heads, WIDTH=width, SPLITS=splits, BLOCKS=each, ROWS=ROWS, BLOCK=BLOCK,
    )  # fmt: skip
    _joined[batch * groups, heads](
        mixed, highest, total, out,
        HEADS=heads, WIDTH=width, SPLITS=splits, PADDED=triton.next_power_of_2(splits), ROWS=ROWS,
    )  # fmt: skip
    return out


@attend.register_fake
def _(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
