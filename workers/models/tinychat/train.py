"""Trains tinychat with torch on one core: tokenizer, lessons, the loop. Used by `build.py` only, never at run time.

Everything is seeded; the weights come back as the plain arrays that `graph.py` reads. The parts that need no torch
(tokenizer, lessons, schedule) stay importable without it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from workers.engines.text import Text
from workers.models.tinychat import corpus
from workers.models.tinychat.graph import EPSILON, Shape, rotations

SEED = 20261123
CONTROL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
BATCH_TOKENS = 2048
STEPS = 2200
PEAK_RATE = 3e-3
WARM_UP_STEPS = 60
PROSE_WEIGHT = 0.5
"""What a token of prose counts in the loss beside one of an answer. A question's tokens count nothing."""


def train_tokenizer(path: Path, vocabulary: int) -> None:
    """Byte-level BPE over the corpus; digits stay single, so that sums are seen digit by digit."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    chats = (turn["content"] for messages in islice(corpus.dialogues(SEED), 20_000) for turn in messages)
    texts = [*chats, *islice(corpus.passages(SEED), 4_000)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def lesson(text: Text, messages: list[dict[str, str]]) -> tuple[list[int], list[float]]:
    """A chat as token ids, and what each token counts when it is to be predicted."""
    ids: list[int] = []
    weights: list[float] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = text.encode_chat(messages[:i])
        answer = [*text.encode(message["content"])[1:], text.end]
        weights += [0.0] * (len(prompt) - len(ids)) + [1.0] * len(answer)
        ids = [*prompt, *answer]
    return ids, weights


def lessons(text: Text, seed: int) -> Iterator[tuple[list[int], list[float]]]:
    """Chats, and one passage of prose in ten."""
    rng = random.Random(seed)
    chats, passages = corpus.dialogues(seed + 1), corpus.passages(seed + 2)
    while True:
        if rng.random() < 0.9:
            yield lesson(text, next(chats))
        else:
            ids = [*text.encode(next(passages)), text.end]
            yield ids, [PROSE_WEIGHT] * len(ids)


def batches(text: Text, shape: Shape, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids and loss weights, [rows, length], rows of like length together so that little is padding."""
    rng = random.Random(seed)
    source = lessons(text, seed)
    while True:
        pool = sorted(islice(source, 2048), key=lambda pair: len(pair[0]))
        ready = []
        while pool:
            longest = min(len(pool[-1][0]), shape.context)
            rows = max(BATCH_TOKENS // longest, 1)
            taken, pool = pool[-rows:], pool[:-rows]
            ids = np.full((len(taken), longest), text.end, np.int64)
            weights = np.zeros((len(taken), longest), np.float32)
            for row, (tokens, counts) in enumerate(taken):
                ids[row, : len(tokens)] = tokens[:longest]
                weights[row, : len(counts)] = counts[:longest]
            ready.append((ids, weights))
        rng.shuffle(ready)
        yield from ready


def rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, then linear to zero (arXiv:2405.18392 finds a long decay best)."""
    if step < WARM_UP_STEPS:
        return PEAK_RATE * (step + 1) / WARM_UP_STEPS
    return PEAK_RATE * (steps - step) / (steps - WARM_UP_STEPS)


def fresh_weights(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """Random initial weights under the names `graph.build` reads."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0, scale / math.sqrt(rows), (rows, columns)).astype(np.float32)

    ones = np.ones(shape.width, np.float32)
    weights = {"embedding": rng.normal(0, 0.05, (shape.vocabulary, shape.width)).astype(np.float32), "norm": ones}
    calm = 1 / math.sqrt(2 * shape.layers)
    for layer in range(shape.layers):
        weights |= {
            f"{layer}.attention_norm": ones,
            f"{layer}.qkv": matrix(shape.width, shape.width + 2 * shape.cached_width),
            f"{layer}.out": matrix(shape.width, shape.width, calm),
            f"{layer}.mlp_norm": ones,
            f"{layer}.gate_up": matrix(shape.width, 2 * shape.hidden),
            f"{layer}.down": matrix(shape.hidden, shape.width, calm),
        }
    return weights


def forward(weights: dict[str, Any], shape: Shape, ids: Any) -> Any:
    """The normed last states [rows, length, width] in torch; the same arithmetic as `graph.py` without its cache."""
    import torch
    from torch.nn import functional

    cosine, sine = (torch.from_numpy(table)[: ids.shape[1]] for table in rotations(shape))

    def norm(x: Any, weight: Any) -> Any:
        return functional.rms_norm(x.float(), (shape.width,), weight, EPSILON)

    def turn(x: Any) -> Any:
        first, second = x.float().chunk(2, -1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)

    x = weights["embedding"][ids]
    rows, length, _ = x.shape
    future = torch.full((length, length), -torch.inf).triu(1).repeat(shape.heads // shape.cached_heads, 1)
    for layer in range(shape.layers):
        projected = norm(x, weights[f"{layer}.attention_norm"]) @ weights[f"{layer}.qkv"]
        heads = projected.view(rows, length, -1, shape.head_width).transpose(1, 2)
        q, k, v = heads.split([shape.heads, shape.cached_heads, shape.cached_heads], 1)
        # Queries of one cached head stand below each other. Plain products: torch's fused attention is slow backwards.
        grouped = turn(q).view(rows, shape.cached_heads, -1, shape.head_width)
        scores = (grouped @ turn(k).transpose(2, 3)).float() / math.sqrt(shape.head_width) + future
        mixed = (scores.softmax(-1) @ v).view(rows, shape.heads, length, shape.head_width)
        x = x + mixed.transpose(1, 2).reshape(rows, length, shape.width) @ weights[f"{layer}.out"]
        gate, up = (norm(x, weights[f"{layer}.mlp_norm"]) @ weights[f"{layer}.gate_up"]).chunk(2, -1)
        x = x + (functional.silu(gate) * up) @ weights[f"{layer}.down"]
    return norm(x, weights["norm"])


def train(text: Text, shape: Shape, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Train on one thread and return the weights. Prints its progress."""
    import torch
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    weights = {name: torch.from_numpy(w.copy()).requires_grad_() for name, w in fresh_weights(shape, SEED).items()}
    matrices = [w for name, w in weights.items() if w.ndim == 2 and name != "embedding"]
    others = [w for name, w in weights.items() if w.ndim == 1 or name == "embedding"]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    source = batches(text, shape, SEED)
    began = time.perf_counter()
    for step in range(steps):
        ids, counts = (torch.from_numpy(array) for array in next(source))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            states = forward(weights, shape, ids[:, :-1])
            scored = counts[:, 1:] > 0  # the head is a fifth of the work: not for padding and questions
            logits = states[scored] @ weights["embedding"].T
        losses = functional.cross_entropy(logits.float(), ids[:, 1:][scored], reduction="none")
        wanted = counts[:, 1:][scored]
        loss = (losses * wanted).sum() / wanted.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - began:6.0f} s", flush=True)
    return {name: w.detach().numpy() for name, w in weights.items()}
