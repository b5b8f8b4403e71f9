"""A transformer encoder with random weights: how many sequences a second, by batch, for each variant.

Speed does not depend on the values of the weights; quality here is likeness to the bf16 model's own vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from workers.bench import build
from workers.bench.meter import Meter
from workers.engines.torch_graph import Graph
from workers.engines.torch_precision import stored_bytes

GAIN = 1.03
"""A larger batch must bring this much more throughput, or the curve is flat."""
CHECKED = 8
"""Sequences compared with the reference."""


class Shape(NamedTuple):
    layers: int
    hidden: int
    heads: int
    length: int
    vocabulary: int = 30522

    def flops(self, batch: int) -> float:
        """Of the blocks' products and attention, for this many sequences."""
        tokens = batch * self.length
        return self.layers * tokens * (2 * 12 * self.hidden**2 + 4 * self.length * self.hidden)


LARGE = Shape(layers=24, hidden=2048, heads=16, length=512)
BERT_LARGE = Shape(layers=24, hidden=1024, heads=16, length=512)
TINY = Shape(layers=2, hidden=64, heads=2, length=16, vocabulary=128)


class Block(nn.Module):
    """Attention over the whole sequence, then two products with GELU between; norms come first."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.out(read.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Encoder(nn.Module):
    """Token ids [n, length] to unit vectors [n, hidden]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.length, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape.hidden, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.hidden)

    def forward(self, ids: torch.Tensor, block: Callable[..., torch.Tensor] = Block.forward) -> torch.Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for each in self.blocks:
            x = block(each, x)
        return functional.normalize(self.norm(x).mean(1).float(), dim=-1)


class Bench:
    """Measures variants of one encoder, each against the bf16 model of the same weights."""

    def __init__(self, meter: Meter, shape: Shape, batches: Sequence[int]) -> None:
        self._meter, self._shape, self._batches = meter, shape, batches
        generator = torch.Generator(meter.device).manual_seed(1)
        self._ids = torch.randint(
            shape.vocabulary, (max(*batches, CHECKED), shape.length), device=meter.device, generator=generator
        )
        model = self._model()
        self._product = model.blocks[0].qkv
        self._reference = model(self._ids[:CHECKED])

    def describe(self) -> dict[str, Any]:
        return {"shape": self._shape._asdict(), "parameters": sum(p.numel() for p in self._model().parameters())}

    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield what is known as soon as it is: what was built, then a row per batch until throughput stops growing."""
        variant = build.parse(name)
        begun = time.monotonic()
        model = self._model()
        build.converted(variant, model.blocks, model)
        yield {"product_error": build.product_error(model.blocks, self._product)}
        block = build.made(variant, Block.forward)
        vectors = model(self._ids[:CHECKED], block)
        yield {
            "convert_s": time.monotonic() - begun,
            "weights_bytes": stored_bytes(model),
            "cosine": functional.cosine_similarity(vectors, self._reference).mean().item(),
        }
        best = 0.0
        for batch in self._batches:
            row = self._row(lambda ids: model(ids, block), batch, captured=variant.captured)
            yield {"rows": [row]}
            rate = batch / row["seconds"]
            if rate < best * GAIN:
                break
            best = rate

    def _row(self, run: Callable[[torch.Tensor], torch.Tensor], batch: int, *, captured: bool) -> dict[str, Any]:
        begun = time.monotonic()
        ids = self._ids[:batch].clone()
        again: Callable[[], object] = Graph(run, [ids]).replay if captured else lambda: run(ids)
        again()
        self._meter.synchronize()
        built = time.monotonic() - begun
        median = self._meter.median(again)
        kept = self._meter.sustained(again)
        return {
            "batch": batch,
            "build_s": built,
            "median_s": median,
            "seconds": kept.seconds,
            "flops": self._shape.flops(batch),
            "joules": kept.joules,
            "watts": kept.watts,
        }

    def _model(self) -> Encoder:
        return build.random_model(lambda: Encoder(self._shape), self._meter.device)
