"""A decoding step in seven kernels a layer: products with norm, gate and residual inside, rotation and cache in one,
attention in pieces. Takes the weights of a `llama.Decoder` by reference; what it cannot do is read prompts.
"""

from __future__ import annotations

import torch

from workers.bench.llama import Cache, Decoder, Layer
from workers.engines.torch_attend import attend, place
from workers.engines.torch_skinny import SkinnyLinear, replace, skinny


class Fused:
    """Decodes with a model whose linear layers it has replaced."""

    def __init__(self, model: Decoder, form: str) -> None:
        """Changes the model in place: its norms' gains go into the weights behind them, which take the format."""
        for layer in model.layers:
            fold(layer.attention_norm, layer.qkv)
            fold(layer.mlp_norm, layer.gate_up)
        fold(model.norm, model.head)
        replace(model.layers, form)
        replace(model, "bf16")
        self._model = model
        self._epsilon = model.shape.epsilon

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, turns: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Logits [batch, vocabulary] of one token of every row at its own position."""
        x = self._model.embedding(tokens)
        for layer, (keys, values) in zip(self._model.layers, cache, strict=True):
            x = self._layer(layer, x, turns, keys, values, positions)
        return _product(self._model.head, x, epsilon=self._epsilon)

    def _layer(
        self,
        layer: Layer,
        x: torch.Tensor,
        turns: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        qkv = _product(layer.qkv, x, epsilon=self._epsilon)
        q = place(qkv, turns, keys, values, positions)
        mixed = attend(q, keys, values, positions).view(x.shape[0], -1)
        x = _product(layer.out, mixed, residual=x)
        gated = _product(layer.gate_up, x, epsilon=self._epsilon, gated=True)
        return _product(layer.down, gated, residual=x)


def _product(
    linear: SkinnyLinear,
    x: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    epsilon: float = 0.0,
    gated: bool = False,
) -> torch.Tensor:
    return skinny(x, linear.weight, linear.scale, residual, epsilon, gated)


def fold(norm: torch.nn.RMSNorm, linear: torch.nn.Linear) -> None:
    """Put a norm's gain into the weights behind it."""
    linear.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)
