"""A Llama-architecture decoder with random weights: reading prompts and decoding, for each variant.

Decoding is bound by memory: each step reads every weight once and every live position of the cache. The whole step,
greedy choice included, is one captured graph that feeds itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from workers.bench import build
from workers.bench.llama import Cache, Decoder, Layer, Shape, turns
from workers.bench.meter import Meter
from workers.engines.torch_graph import Graph
from workers.engines.torch_precision import stored_bytes


class Plan(NamedTuple):
    """What is measured."""

    shape: Shape
    prompts: Sequence[int]
    """Lengths read at batch 1; the first is compared with the reference."""
    batches: Sequence[int]
    context: int
    """Live positions when decoding begins; it then goes round over `span` more."""
    span: int


class Texts(NamedTuple):
    """What is measured of a worker's own engine (batching.py)."""

    shape: Shape
    sequences: Sequence[int]
    """At once."""
    prompt: int
    tokens: int


Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Cache], torch.Tensor]
"""Tokens, positions, table of rotations, cache -> logits of one step."""


class Steps:
    """Decoding of `batch` rows on static buffers."""

    def __init__(self, model: Decoder, batch: int, plan: Plan, table: torch.Tensor, forward: Forward) -> None:
        self._plan, self._table, self._forward = plan, table, forward
        device = table.device
        self.cache: Cache = model.cache(batch, plan.context + plan.span)
        for keys, values in self.cache:
            keys.normal_()
            values.normal_()
        self.tokens = torch.arange(batch, device=device)
        self.positions = torch.full((batch,), plan.context, device=device)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """One token for every row, put in place of the one before."""
        chosen = self._forward(tokens, positions, self._table, self.cache).argmax(-1)
        tokens.copy_(chosen)
        positions.copy_((positions + 1 - self._plan.context) % self._plan.span + self._plan.context)
        return chosen


class Bench:
    """Measures variants of one decoder, each against the bf16 model of the same weights."""

    def __init__(self, meter: Meter, plan: Plan) -> None:
        self._meter, self._plan = meter, plan
        longest = max(*plan.prompts, plan.context + plan.span)
        self._table = turns(plan.shape, longest, meter.device)
        generator = torch.Generator(meter.device).manual_seed(1)
        self._prompt = torch.randint(plan.shape.vocabulary, (1, longest), device=meter.device, generator=generator)
        model = self._model()
        self._parameters = sum(p.numel() for p in model.parameters())
        self._product = model.layers[0].qkv
        self._reference = self._read(model, self._prompt[:, : plan.prompts[0]], Layer.read)

    def describe(self) -> dict[str, Any]:
        return {"shape": self._plan.shape._asdict(), "parameters": self._parameters, "context": self._plan.context}

    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield what is known as soon as it is: what was built, a row per batch decoded, a row per prompt read."""
        variant = build.parse(name)
        begun = time.monotonic()
        if self._meter.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._meter.device)
        model = self._model()
        forward = self._converted(variant, model)
        weights = stored_bytes(model)
        yield {"convert_s": time.monotonic() - begun, "weights_bytes": weights}
        yield {"product_error": build.product_error(model.layers, self._product)}
        embedding = stored_bytes(model.embedding)  # of which a step reads one row per token
        for batch in self._plan.batches:
            row = self._decode(model, batch, forward, captured=variant.captured)
            yield {"decode": [row | {"bytes": weights - embedding + self._cache_bytes(batch)}]}
        read = build.made(variant, Layer.read)
        logits = self._read(model, self._prompt[:, : self._plan.prompts[0]], read)
        yield likeness(logits, self._reference)
        for length in self._plan.prompts:
            yield {"prompts": [self._prefill(model, length, read, captured=variant.captured)]}
        yield {"kernels": build.kernels(variant)}
        if self._meter.device.type == "cuda":
            yield {"peak_bytes": torch.cuda.max_memory_allocated(self._meter.device)}

    def _converted(self, variant: build.Variant, model: Decoder) -> Forward:
        """The model's step as the variant makes it."""
        build.converted(variant, model.layers, model)
        layer = build.made(variant, Layer.step)
        return lambda tokens, positions, table, cache: model.logits(model.step(tokens, positions, table, cache, layer))

    def _decode(self, model: Decoder, batch: int, forward: Forward, *, captured: bool) -> dict[str, Any]:
        begun = time.monotonic()
        steps = Steps(model, batch, self._plan, self._table, forward)
        again = self._again(steps.step, [steps.tokens, steps.positions], captured=captured)
        built = time.monotonic() - begun
        median = self._meter.median(again)
        kept = self._meter.sustained(again)
        return {
            "batch": batch,
            "build_s": built,
            "median_s": median,
            "seconds": kept.seconds,
            "joules": kept.joules,
            "watts": kept.watts,
        }

    def _prefill(self, model: Decoder, length: int, layer: Callable[..., Any], *, captured: bool) -> dict[str, Any]:
        """Time to the first token of one prompt, the card otherwise idle."""
        begun = time.monotonic()
        cache = model.cache(1, length)

        def first(tokens: torch.Tensor) -> torch.Tensor:
            return model.logits(model.read(tokens, self._table, cache, layer)[:, -1]).argmax(-1)

        again = self._again(first, [self._prompt[:, :length].clone()], captured=captured)
        built = time.monotonic() - begun
        return {
            "length": length,
            "build_s": built,
            "seconds": self._meter.median(again),
            "flops": self._plan.shape.read_flops(1, length),
        }

    def _again(
        self, function: Callable[..., Any], inputs: Sequence[torch.Tensor], *, captured: bool
    ) -> Callable[[], object]:
        again: Callable[[], object] = Graph(function, inputs).replay if captured else lambda: function(*inputs)
        again()
        self._meter.synchronize()
        return again

    def _read(self, model: Decoder, tokens: torch.Tensor, layer: Callable[..., Any]) -> torch.Tensor:
        return model.logits(model.read(tokens, self._table, model.cache(1, tokens.shape[1]), layer))[0]

    def _cache_bytes(self, batch: int) -> int:
        """Of the positions live in the middle of a round."""
        return batch * self._plan.shape.cache_bytes(self._plan.context + self._plan.span // 2)

    def _model(self) -> Decoder:
        return build.random_model(lambda: Decoder(self._plan.shape), self._meter.device)


def likeness(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """How alike two models' next-token scores are at every position of a prompt."""
    return {
        "agreement": (logits.argmax(-1) == reference.argmax(-1)).float().mean().item(),
        "cosine": functional.cosine_similarity(logits.float(), reference.float(), dim=-1).mean().item(),
    }
