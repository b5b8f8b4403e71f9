"""A Llama-architecture decoder in plain torch, with the key/value cache as static buffers, so that a whole decoding
step is a fixed sequence of kernels. Tested against transformers' own Llama; it exists to be measured, not served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

Cache = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Per layer keys and values, each [batch, cached_heads, length, width]."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Shape(NamedTuple):
    layers: int
    hidden: int
    heads: int
    cached_heads: int
    inner: int
    vocabulary: int
    theta: float = 500_000.0
    epsilon: float = 1e-5

    @property
    def width(self) -> int:
        return self.hidden // self.heads

    def layer_weights(self) -> int:
        """Elements of all layers' matrices."""
        attention = self.hidden * self.width * (2 * self.heads + 2 * self.cached_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    def cache_bytes(self, positions: int) -> int:
        """Of one sequence in bf16."""
        return self.layers * 2 * self.cached_heads * self.width * positions * 2

    def read_flops(self, batch: int, length: int) -> float:
        """Reading prompts: the layers' products, causal attention, and the head for each last token."""
        products = 2 * batch * length * self.layer_weights()
        attention = 2 * batch * self.layers * self.hidden * length * length
        return products + attention + 2 * batch * self.hidden * self.vocabulary


LLAMA_8B = Shape(layers=32, hidden=4096, heads=32, cached_heads=8, inner=14336, vocabulary=128256)
LLAMA_1B = Shape(layers=16, hidden=2048, heads=32, cached_heads=8, inner=8192, vocabulary=128256)
TINY = Shape(layers=2, hidden=64, heads=4, cached_heads=2, inner=128, vocabulary=256)


class Layer(nn.Module):
    """`read` takes whole prompts into the cache, `step` one token of every row.

    `attend` is how a step looks at the cache, to be replaced on an instance (workers/engines/torch_attend.py).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.cached_heads, self.width = shape.heads, shape.cached_heads, shape.width
        self.attention_norm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.mlp_norm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.qkv = nn.Linear(shape.hidden, (shape.heads + 2 * shape.cached_heads) * shape.width, bias=False)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, shape.hidden, bias=False)
        self.attend: Attend = attend

    def read(self, x: torch.Tensor, turn: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """`x` [batch, length, hidden], `turn` [length, width * 2]: rotations of positions 0 and on."""
        batch, length, _ = x.shape
        projected = self.qkv(self.attention_norm(x)).view(batch, length, -1, self.width).transpose(1, 2)
        q, k, v = projected.split([self.heads, self.cached_heads, self.cached_heads], dim=1)
        q, k = rotate(q, turn), rotate(k, turn)
        keys[:, :, :length] = k
        values[:, :, :length] = v
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return x + self._mlp(self.mlp_norm(x))

    def step(
        self,
        x: torch.Tensor,
        turn: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """`x` [batch, hidden], `turn` [batch, 1, width * 2], `positions` [batch]."""
        batch = x.shape[0]
        projected = self.qkv(self.attention_norm(x)).view(batch, -1, self.width)
        q, k, v = projected.split([self.heads, self.cached_heads, self.cached_heads], dim=1)
        q, k = rotate(q, turn), rotate(k, turn)
        rows = torch.arange(batch, device=x.device)
        keys[rows, :, positions] = k
        values[rows, :, positions] = v
        mixed = self.attend(q.reshape(batch, self.cached_heads, -1, self.width), keys, values, positions)
        x = x + self.out(mixed.reshape(batch, -1))
        return x + self._mlp(self.mlp_norm(x))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Decoder(nn.Module):
    """Embedding, layers, norm and head; the caller owns the cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.epsilon)
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def cache(self, batch: int, length: int) -> Cache:
        size = (batch, self.shape.cached_heads, length, self.shape.width)
        like = self.embedding.weight
        return [(like.new_zeros(size), like.new_zeros(size)) for _ in self.layers]

    def read(
        self, tokens: torch.Tensor, turns: torch.Tensor, cache: Cache, layer: Callable[..., Any] = Layer.read
    ) -> torch.Tensor:
        """Hidden states [batch, length, hidden] of prompts [batch, length]; the cache holds them from 0 on."""
        x = self.embedding(tokens)
        for each, (keys, values) in zip(self.layers, cache, strict=True):
            x = layer(each, x, turns[: tokens.shape[1]], keys, values)
        return x

    def step(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        turns: torch.Tensor,
        cache: Cache,
        layer: Callable[..., Any] = Layer.step,
    ) -> torch.Tensor:
        """Hidden states [batch, hidden] of one token of every row at its own position."""
        x = self.embedding(tokens)
        turn = turns[positions][:, None]
        for each, (keys, values) in zip(self.layers, cache, strict=True):
            x = layer(each, x, turn, keys, values, positions)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(hidden))


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Plain attention of `q` [batch, groups, heads, width] over cached positions up to `positions` [batch].

    Heads that share keys are rows of one product, so the cache is read once per group. The softmax is float32.
    """
    places = torch.arange(keys.shape[2], device=q.device)
    mask = torch.where(places <= positions[:, None], 0.0, -torch.inf)
    scores = (q @ keys.transpose(2, 3)).float() * q.shape[-1] ** -0.5 + mask[:, None, None]
    return scores.softmax(-1).to(q.dtype) @ values


def rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotary positions, halves paired as transformers' Llama pairs them."""
    cosine, sine = turn.chunk(2, dim=-1)
    left, right = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-right, left), dim=-1) * sine


def turns(shape: Shape, length: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Cosines, then sines, of every position: [length, width * 2]."""
    inverse = shape.theta ** -(torch.arange(0, shape.width, 2, device=device, dtype=torch.float64) / shape.width)
    angles = torch.arange(length, device=device, dtype=torch.float64)[:, None] * inverse
    return torch.cat((angles.cos(), angles.cos(), angles.sin(), angles.sin()), dim=-1).to(dtype)
